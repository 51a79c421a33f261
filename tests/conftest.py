"""What holds for every test: no network, no setting of the user's, threads shared fairly, the same examples in CI."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from support.checked_shapes import check_shapes_of
from support.thread_share import share_threads

share_threads(os.environ, len(os.sched_getaffinity(0)))  # before torch is imported

# Every annotated shape in kdcache is checked while the tests run: a false annotation fails them.
check_shapes_of("kdcache")

# Modules are compiled once: many tests start processes, and each would compile all of them again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No test may reach a model hub; a name without local weights must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session", autouse=True)
def _own_user_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither see nor change what the user has set or keeps in the cache folder of the account."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KDCACHE_DATA", raising=False)
        patch.delenv("KDCACHE_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """Where the pieces of one small job lie: data set, teacher, policy and a cache of ten views."""

    data: str
    weights: Path
    policy: str
    cache: Path


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """One small job for all tests; a test that changes a part of it makes its own."""
    # Imported late: most tests need neither torch nor timm, whose import takes seconds.
    from kdcache.dumping.dump import dump
    from support.small_job import dump_request, make_data, make_policy, make_teacher

    root = tmp_path_factory.mktemp("job")
    job = Job(
        data=make_data(root / "data"),
        weights=make_teacher(root / "teacher"),
        policy=make_policy(root / "policy.json"),
        cache=root / "cache",
    )
    dump(dump_request(job.data, job.cache, job.weights, job.policy, views=10))
    return job
