"""Processes that share a cache: together they make what one would have made, whoever dies."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcache.cache.durable import LocalFiles
from kdcache.cache.store import Cache
from kdcache.jobs.dump import DumpRequest, dump
from kdcache.jobs.dumping import waiting
from support.processes import rows_in, start_dump
from support.small_job import MODEL, SAMPLES, dump_request, tree_bytes

VIEWS = 4


def request_for(job, cache: Path, **choice) -> DumpRequest:
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
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone",
        "-m", "kdcache_cli", "dump-logits", "--teacher", MODEL, "--data", job.data, "--cache", str(tmp_path / "cache"),
        "--weights", str(job.weights), "--policy", job.policy, "--views", str(VIEWS), "--batch-size", "16",
        "--device", "cpu", "--renderer", "pillow",
    ]  # fmt: skip
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree_bytes(tmp_path / "cache") == alone
    blocks = Cache.open(tmp_path / "cache").entry(MODEL).layout.blocks * VIEWS
    (report,) = done.stdout.splitlines()
    assert f"{blocks} of {blocks} blocks written by this run" in report
    told = re.findall(r"over 131 samples x 4 views: [\d,]+ images in ", done.stderr)
    assert len(told) == 1, "rank 0 alone tells the progress"


def test_processes_started_at_the_same_instant_share_the_work(job, alone, tmp_path):
    """They make the cache and the teacher's entry at once, too."""
    logs = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    processes = [start_dump(request_for(job, tmp_path / "cache"), log) for log in logs]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert tree_bytes(tmp_path / "cache") == alone
    assert sum(map(rows_in, logs)) == VIEWS * SAMPLES, "a row was answered twice"


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
