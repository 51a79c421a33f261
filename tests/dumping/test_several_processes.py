"""Processes that share a cache: together they make what one would have made, whoever dies."""

import os
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcache.cache.copying import copy_block
from kdcache.cache.durable import LocalFiles
from kdcache.cache.entry import BlockWriter
from kdcache.cache.store import Cache
from kdcache.dumping import waiting, worker
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from support.forked import run_ranks
from support.processes import rows_in, start_dump
from support.small_job import MODEL, SAMPLES, Heard, dump_request, tree_bytes

VIEWS = 4


def request_for(job, cache: Path, **choice) -> DumpOptions:
    settings = {"views": VIEWS, "targets": "topk", "renderer": "pillow"}
    return dump_request(job.data, cache, job.weights, job.policy, **(settings | choice))


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes."""
    cache = tmp_path_factory.mktemp("alone") / "cache"
    dump(request_for(job, cache))
    return tree_bytes(cache)


def test_ranks_make_the_bytes_that_one_process_makes(job, alone, tmp_path):
    arguments = [
        "dump-logits", "--teacher", MODEL, "--data", job.data, "--cache", str(tmp_path / "cache"),
        "--weights", str(job.weights), "--policy", job.policy, "--views", str(VIEWS), "--batch-size", "16",
        "--device", "cpu", "--renderer", "pillow",
    ]  # fmt: skip
    ranks = run_ranks(arguments, 2)
    assert not any(rank.returncode for rank in ranks), "\n".join(rank.stderr for rank in ranks)
    assert tree_bytes(tmp_path / "cache") == alone
    blocks = Cache.open(tmp_path / "cache").entry(MODEL).layout.blocks * VIEWS
    (report,) = ranks[0].stdout.splitlines()
    assert not ranks[1].stdout, "rank 0 alone reports"
    assert f"{blocks} of {blocks} blocks written by this run" in report
    assert ["Opening the data" in rank.stderr for rank in ranks] == [True, False], "rank 0 alone tells the progress"
    told = re.findall(r"over 131 samples x 4 views: [\d,]+ images in ", "".join(rank.stderr for rank in ranks))
    assert len(told) <= 1, "and counts the images, unless the others had made all of them when it came"


def test_processes_started_at_the_same_instant_share_the_work(job, alone, tmp_path):
    """They make the cache and the teacher's entry at once, too."""
    logs = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    processes = [start_dump(request_for(job, tmp_path / "cache"), log) for log in logs]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert tree_bytes(tmp_path / "cache") == alone
    assert sum(map(rows_in, logs)) == VIEWS * SAMPLES, "a row was computed twice"


@pytest.mark.parametrize("when", ["before the first record", "after the last"])
def test_an_order_that_another_process_put_over_is_put_back(job, tmp_path, monkeypatch, when):
    """It had looked for an entry before there was one, and slept."""

    def request(cache):
        return dump_request(job.data, cache, job.weights, job.policy, targets="topk", views=1)

    dump(request(tmp_path / "alone"))
    expected = tree_bytes(tmp_path / "alone")
    cache, order = tmp_path / "cache", f"teachers/{MODEL}/order/c/0/0"
    put, put_if_absent, sound = LocalFiles.put, LocalFiles.put_if_absent, []

    def put_chunk(self, key, data):
        put(self, key, data)
        if "/top/c/" in key and when == "before the first record":
            (cache / order).write_bytes(b"another")

    def put_record(self, key, data):
        made = put_if_absent(self, key, data)
        if "/records/" in key:
            sound.append((cache / order).read_bytes() == expected[order])
            if when == "after the last":
                (cache / order).write_bytes(b"another")
        return made

    monkeypatch.setattr(LocalFiles, "put", put_chunk)
    monkeypatch.setattr(LocalFiles, "put_if_absent", put_record)
    dump(request(cache))
    assert sound[0]
    assert tree_bytes(cache) == expected


def test_a_block_that_somebody_else_claims_is_waited_for(job, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "PAUSE", 0.05)
    path = tmp_path / "cache"
    dump(request_for(job, path, views=1))
    with Cache.open(path, read_only=False).claims() as other:
        assert other.take(f"{MODEL}-2-3")
        process = start_dump(request_for(job, path), tmp_path / "log")
        entry = Cache.open(path).entry(MODEL)
        deadline = time.monotonic() + 60
        while sum(len(entry.listed(view)) for view in range(VIEWS)) < entry.layout.blocks * VIEWS - 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.is_alive()
        assert 3 not in entry.listed(2)
    process.join(60)
    assert process.exitcode == 0
    assert tree_bytes(path) == alone


class Counted(Heard):
    """Remembers how many images were counted, beside what was said."""

    def __init__(self):
        super().__init__()
        self.images = 0

    @contextmanager
    def counting(self, title, total, unit="images", done=0):
        heard = self

        class Task:
            def advance(self, count=1, **values):
                heard.images += count

        yield Task()


@pytest.mark.parametrize("targets", ["full", "topk"])
def test_that_another_process_shares_the_work_is_said_once_and_its_blocks_are_counted_as_they_come(
    job, tmp_path, monkeypatch, targets
):
    """The other one is at two blocks, and has made the first of them by the time that this one has made one."""
    monkeypatch.setattr(waiting, "PAUSE", 0.01)
    monkeypatch.setattr(worker, "LOOK", 0.0)
    source, path = tmp_path / "source", tmp_path / "cache"

    def request(cache, views):
        return dump_request(job.data, cache, job.weights, job.policy, targets=targets, renderer="pillow", views=views)

    dump(request(source, 2))
    dump(request(path, 1))
    rows = Cache.open(path).view_set.block_rows
    heard, seen = Counted(), []
    heard.task = heard.counting
    write, other = BlockWriter.finish, Cache.open(path, read_only=False).claims()

    def finish(self, *arguments):
        write(self, *arguments)
        if not seen:
            copy_block(Cache.open(source).entry(MODEL), Cache.open(path, read_only=False).entry(MODEL), 1, 0)
        seen.append(heard.images)
        if len(seen) == 2:
            copy_block(Cache.open(source).entry(MODEL), Cache.open(path, read_only=False).entry(MODEL), 1, 1)
            other.close()

    assert other.take(f"{MODEL}-1-0")
    assert other.take(f"{MODEL}-1-1")
    monkeypatch.setattr(BlockWriter, "finish", finish)
    dump(request(path, 2), heard)
    told = [line for line in heard.said if line.startswith("The work is shared")]
    assert len(told) == 1
    assert "computes view 1, block 0" in told[0]
    assert seen[1] >= 3 * rows, "its first block was counted before the end"
    assert heard.images == SAMPLES
    assert tree_bytes(path) == tree_bytes(source)


def test_nothing_is_said_of_others_where_there_are_none(job, tmp_path):
    heard = Heard()
    dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk", views=2), heard)
    assert not any("shared" in line for line in heard.said)


def test_when_one_process_is_killed_the_other_finishes(job, alone, tmp_path):
    path, logs = tmp_path / "cache", [tmp_path / "one", tmp_path / "two"]
    victim = start_dump(request_for(job, path), logs[0])
    while rows_in(logs[0]) < 40:
        time.sleep(0.005)
        assert victim.is_alive()
    other = start_dump(request_for(job, path), logs[1])
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    other.join(120)
    assert other.exitcode == 0
    assert tree_bytes(path) == alone
    block_rows = Cache.open(path).view_set.block_rows
    assert VIEWS * SAMPLES <= sum(map(rows_in, logs)) <= VIEWS * SAMPLES + block_rows, "more than a block was lost"
    assert rows_in(logs[1]) > SAMPLES, "the other had nothing to do"
