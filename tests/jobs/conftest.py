"""One small data set, teacher and cache for all tests of jobs; a test that changes one makes its own."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from kdcache.jobs.dump import dump
from support.small_job import dump_request, make_data, make_policy, make_teacher


@dataclass(frozen=True)
class Job:
    """Where the pieces lie."""

    data: str
    weights: Path
    policy: str
    cache: Path


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("job")
    job = Job(
        data=make_data(root / "data"),
        weights=make_teacher(root / "teacher"),
        policy=make_policy(root / "policy.json"),
        cache=root / "cache",
    )
    dump(dump_request(job.data, job.cache, job.weights, job.policy, views=10))
    return job
