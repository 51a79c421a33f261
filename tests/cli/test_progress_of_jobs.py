"""Jobs that take long show a task with all that there is to do, and count it: import, index, inspect, verify, copy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcache.data.importers.fashion_mnist import import_fashion_mnist
from kdcache.data.index import open_index
from kdcache.inspection.check import check
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.runtime.progress import Silent
from support.small_cache import fill, open_entry


class Counted:
    """A task that adds up what is reported done."""

    def __init__(self, done: int) -> None:
        self.done = done

    def advance(self, count: int = 1, **values: float) -> None:
        self.done += count


class Counting(Silent):
    """Notes each task as its title, its total, and what was done when it ended."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int, int]] = []

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Counted]:
        counted = Counted(done)
        yield counted
        self.tasks.append((title, total, counted.done))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "data"
    import_fashion_mnist(out, split="train", source="sample", limit=12)
    return out


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    fill(open_entry(path), 2)
    return path


Job = Callable[[Path, Path, Path, Counting], object]
JOBS: dict[str, Job] = {
    "importing": lambda shards, cache, out, progress: import_fashion_mnist(
        out / "data", split="train", source="sample", limit=12, progress=progress
    ),
    "indexing": lambda shards, cache, out, progress: open_index(str(shards), progress=progress),
    "checking": lambda shards, cache, out, progress: check(str(shards), renderer="pillow", progress=progress),
    "Reading teacher": lambda shards, cache, out, progress: inspect(InspectOptions(str(cache)), progress),
    "Reading ": lambda shards, cache, out, progress: verify(VerifyOptions(str(cache)), progress),
    " to ": lambda shards, cache, out, progress: copy_cache(CopyOptions(str(cache), str(out / "copy")), progress),
}


@pytest.mark.parametrize("title", JOBS)
def test_a_job_counts_all_that_it_has_to_do(title: str, shards: Path, cache: Path, tmp_path: Path) -> None:
    progress = Counting()
    JOBS[title](shards, cache, tmp_path, progress)
    found = [task for task in progress.tasks if title in task[0]]
    assert len(found) == 1
    assert found[0][1] == found[0][2] > 0
