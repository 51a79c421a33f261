"""A dump that meets SIGKILL, or a disk that takes no more: nothing recorded is lost, and nothing is made twice."""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest

from kdcache.cache.store import Cache
from kdcache.dumping import calibration
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.errors import CacheError
from kdcache.io.disk import Disk
from support.processes import rows_in, start_dump
from support.small_job import MODEL, dump_request, tree_bytes

VIEWS = 3
#: Real kills are a sample: `end_to_end/test_stopped.py` stops before every operation. Shares divide them among the
#: processes of a test run.
KILLS, SHARES = 12, 3
KILLS_OF_A_DUMP = 4
PILOT = 12  # two batches of the four of the first block


def request_for(job, cache: Path) -> DumpOptions:
    return dump_request(
        job.data, cache, job.weights, job.policy, views=VIEWS, targets="topk", renderer="pillow", batch_size=8
    )


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("whole") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "calibration_rows", lambda classes: PILOT)
        dump(request_for(job, cache))
    return cache


@pytest.fixture(autouse=True)
def short_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "calibration_rows", lambda classes: PILOT)


def recorded_rows(path: Path) -> int:
    """Rows of the blocks that are recorded and can be read."""
    if not Cache.exists(path) or MODEL not in (cache := Cache.open(path)).names():
        return 0
    entry = cache.entry(MODEL)
    return sum(len(entry.read_block(view, block)) for view in range(VIEWS) for block in entry.listed(view))


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_at_random_instants_it_ends_with_the_same_bytes(share, job, whole, tmp_path):
    """Each time it has lost no more than one block, the rows that an order is learned from included."""
    block_rows = Cache.open(whole).view_set.block_rows
    rng = random.Random(share)
    kills, number = 0, 0
    while kills < KILLS // SHARES:
        number += 1
        path, finished, starts = tmp_path / str(number), False, 0
        while not finished:
            log = tmp_path / f"log-{number}-{starts}"
            before = recorded_rows(path)
            process = start_dump(request_for(job, path), log, PILOT)
            # A dump that is always killed before its first block is whole never ends: it is left alone at last.
            if starts < KILLS_OF_A_DUMP:
                if rng.random() < 0.8:  # most of the time lies before the first output; most that can go wrong, after
                    while process.exitcode is None and not rows_in(log):
                        time.sleep(0.005)
                process.join(rng.uniform(0, 0.15))
            else:
                process.join()
            starts += 1
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
            else:
                assert process.exitcode == 0
                finished = True
            lost = rows_in(log) - (recorded_rows(path) - before)
            assert 0 <= lost <= (0 if finished else block_rows)
        assert tree_bytes(path) == tree_bytes(whole)


class Failing(Disk):
    """Fails with an error of the system's from the n-th write of bytes on."""

    def __init__(self, error: int, allowed: int) -> None:
        self.error, self.allowed = error, allowed

    def write(self, file: int, data: bytes) -> None:
        self.allowed -= 1
        if self.allowed < 0:
            super().write(file, data[: len(data) // 2])
            raise OSError(self.error, os.strerror(self.error))
        super().write(file, data)


@pytest.mark.parametrize(
    ("allowed", "error", "remedy"),
    [
        (0, errno.ENOSPC, "make room"),
        (9, errno.ENOSPC, "make room"),
        (40, errno.ENOSPC, "make room"),
        (9, errno.EROFS, "can write to"),
    ],
)
def test_a_disk_that_takes_no_more_is_told_and_the_next_start_goes_on(
    job, whole, tmp_path, monkeypatch, allowed, error, remedy
):
    path = tmp_path / "cache"
    failing = Failing(error, allowed)
    with monkeypatch.context() as patch:
        patch.setattr("kdcache.cache.durable.Disk", lambda: failing)
        with pytest.raises(CacheError, match=remedy):
            dump(request_for(job, path))
    assert not list(path.glob(".partial/*")), "rubbish, or a claim that was not given back"
    recorded_rows(path)
    dump(request_for(job, path))
    assert tree_bytes(path) == tree_bytes(whole)
