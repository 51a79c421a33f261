"""Streaming gives what reading gives, ahead of time, and ends cleanly."""

import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.cache.stream import stream_targets
from kdcache.errors import CacheError, CorruptError
from kdcache.targets.base import TargetCodec, Targets
from support.small_cache import SAMPLES, TOPK, fill, kept, open_entry, small_chunks
from support.targets_contract import same

VIEWS = 3


def rows(view: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows start..stop-1 of a view, as a batch."""
    return np.full(stop - start, view, np.int64), np.arange(start, stop, dtype=np.int64)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three views in blocks of 4 rows and chunks of 2."""
    with small_chunks(TargetCodec):
        folder = tmp_path_factory.mktemp("cache")
        fill(open_entry(folder), VIEWS)
        yield folder


@pytest.fixture
def entry(path: Path) -> Entry:
    return Cache.open(path).entry("teacher")


@pytest.fixture
def reads(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The chunks that were read, in order."""
    seen: list[tuple[int, int]] = []
    read = entry.read_chunk

    def counted(view: int, chunk: int) -> Targets:
        seen.append((view, chunk))
        return read(view, chunk)

    monkeypatch.setattr(entry, "read_chunk", counted)
    return seen


@cache
def stored(view: int) -> Targets:
    """All targets of a view, after codec."""
    return TOPK.decode(TOPK.encode(kept(TOPK, view, 0, SAMPLES), SAMPLES), SAMPLES)


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    found = []
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, SAMPLES - 1))
        found.append((draw(st.integers(0, VIEWS - 1)), start, draw(st.integers(start + 1, SAMPLES))))
    return found


@settings(max_examples=40)
@given(ranges(), st.integers(1, 4))
def test_any_ranges_come_in_order(path: Path, wanted: list[tuple[int, int, int]], depth: int) -> None:
    entry = Cache.open(path).entry("teacher")
    found = list(stream_targets(entry, [rows(*place) for place in wanted], depth))
    assert len(found) == len(wanted)
    for targets, (view, start, stop) in zip(found, wanted, strict=True):
        assert same(targets, stored(view)[start:stop])


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, VIEWS - 1), st.integers(0, SAMPLES - 1)), min_size=1, max_size=30), max_size=5
    )
)
def test_any_rows_of_any_views_come_in_their_order(path: Path, wanted: list[list[tuple[int, int]]]) -> None:
    entry = Cache.open(path).entry("teacher")
    batches = [tuple(np.array(column, np.int64) for column in zip(*batch, strict=True)) for batch in wanted]
    found = list(stream_targets(entry, batches))
    assert len(found) == len(wanted)
    for targets, batch in zip(found, wanted, strict=True):
        expected = [stored(view).take(torch.tensor([row])) for view, row in batch]
        assert same(targets, type(expected[0]).concat(expected))


def test_chunks_that_batches_keep_drawing_from_are_read_once(entry: Entry, reads: list[tuple[int, int]]) -> None:
    draw = np.random.default_rng(0)
    batches = [(np.repeat([0, 1, 2], 4), draw.permutation(8)[[0, 1, 2, 3] * 3]) for _ in range(20)]
    batches += [(np.repeat([0, 1, 2], 2), 8 + draw.permutation(3)[[0, 1] * 3]) for _ in range(20)]
    list(stream_targets(entry, batches))
    assert sorted(reads) == [(view, chunk) for view in range(VIEWS) for chunk in range(6)]


def test_what_was_used_is_dropped(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.cache.stream.BATCHES_KEPT", 2)
    alive: list[weakref.ref[Targets]] = []
    read = entry.read_chunk

    def watched(view: int, chunk: int) -> Targets:
        targets = read(view, chunk)
        alive.append(weakref.ref(targets))
        return targets

    monkeypatch.setattr(entry, "read_chunk", watched)
    most = 0
    wanted = [rows(view, row, row + 1) for view in range(VIEWS) for row in range(SAMPLES)]
    for _ in stream_targets(entry, wanted, depth=2):
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 18
    assert most <= 6, "one in use, two ahead, those of two batches before, and one on its way"


def test_each_chunk_is_read_once_for_ranges_that_follow_each_other(entry: Entry, reads: list[tuple[int, int]]) -> None:
    wanted = [rows(view, row, row + 1) for view in range(VIEWS) for row in range(SAMPLES)]
    assert len(list(stream_targets(entry, wanted, depth=1))) == len(wanted)
    assert reads == [(view, chunk) for view in range(VIEWS) for chunk in range(6)]


@pytest.mark.parametrize(("depth", "ahead"), [(1, 3), (2, 3), (5, 5)])
def test_it_reads_ahead_by_the_depth_and_some_batches_and_no_further(
    entry: Entry, reads: list[tuple[int, int]], depth: int, ahead: int
) -> None:
    wanted = [rows(view, row, row + 2) for view in range(VIEWS) for row in range(0, 10, 2)]  # a chunk each
    taken: list[int] = []
    stream = stream_targets(entry, (taken.append(1) or place for place in wanted), depth)
    for number, _ in enumerate(stream):
        assert len(taken) == min(number + 1 + ahead, len(wanted))
    assert reads == [(view, chunk) for view in range(VIEWS) for chunk in range(5)]


def test_a_thread_gives_back_the_memory_of_what_was_used(entry: Entry) -> None:
    """It takes milliseconds where batches or chunks are large."""
    released_by: list[str] = []
    stream = stream_targets(entry, [rows(view, row, row + 1) for view in range(VIEWS) for row in range(SAMPLES)])
    number, waited = 0, 0
    for targets in stream:
        weakref.finalize(targets, lambda: released_by.append(threading.current_thread().name))
        number += 1
        while len(released_by) < number - 4 and waited < 1000:  # it is asked to, and does when it comes to it
            time.sleep(0.01)
            waited += 1
    assert len(released_by) >= number - 4
    assert {name.rpartition("_")[0] for name in released_by[: number - 4]} == {"kdcache-gather"}


def test_endless_ranges_are_taken_as_needed(entry: Entry) -> None:
    endless = (rows(0, 0, 1) for _ in itertools.count())
    stream = stream_targets(entry, endless)
    assert [len(next(stream)) for _ in range(5000)] == [1] * 5000
    stream.close()


def test_a_batch_whose_chunks_are_there_waits_for_no_later_one(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, read = threading.Event(), entry.read_chunk

    def slow(view: int, chunk: int) -> Targets:
        assert chunk < 2 or go_on.wait(60)
        return read(view, chunk)

    monkeypatch.setattr(entry, "read_chunk", slow)
    stream = stream_targets(entry, [rows(0, 0, 2), rows(0, 2, 4), rows(0, 0, 4), rows(0, 4, SAMPLES)])
    with ThreadPoolExecutor(1) as caller:
        found = caller.submit(lambda: [len(next(stream)) for _ in range(3)])
        try:
            assert found.result(30) == [2, 2, 4], "while the last batch's chunks are still being read"
        finally:
            go_on.set()
    assert len(next(stream)) == SAMPLES - 4


def test_stopping_ends_a_batch_that_waits_for_its_chunks(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reading = entry.read_chunk, threading.Event()

    def slow(view: int, chunk: int) -> Targets:
        if chunk:
            reading.set()
            time.sleep(0.1)
        return read(view, chunk)

    monkeypatch.setattr(entry, "read_chunk", slow)
    stream = stream_targets(entry, [rows(0, 0, 2), rows(0, 2, SAMPLES), rows(0, 0, SAMPLES)])
    next(stream)
    assert reading.wait(60)
    stream.close()
    assert reading_threads() == []


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("kdcache-read", "kdcache-gather"))]


def test_stopping_early_ends_the_threads(entry: Entry) -> None:
    stream = stream_targets(entry, [rows(0, row, row + 1) for row in range(SAMPLES)])
    next(stream)
    assert len(reading_threads()) == 2
    stream.close()
    assert reading_threads() == []


def test_finishing_ends_the_threads(entry: Entry) -> None:
    list(stream_targets(entry, [rows(0, 0, SAMPLES)]))
    assert reading_threads() == []


def test_errors_come_at_the_range_that_they_concern(entry: Entry) -> None:
    stream = stream_targets(
        entry, [rows(*place) for place in [(2, 0, 4), (2, 4, SAMPLES), (3, 0, 4), (0, 0, 4)]], depth=3
    )
    assert [len(next(stream)) for _ in range(2)] == [4, 7]
    with pytest.raises(CacheError, match="View 3, block 0"):
        next(stream)
    assert reading_threads() == []


def test_a_damaged_chunk_arrives_as_what_it_is(entry: Entry, path: Path) -> None:
    chunk = path / "teachers/teacher/class/c/1/1"  # the file of chunks 2 and 3
    data = chunk.read_bytes()
    chunk.write_bytes(data[::-1])
    try:
        with pytest.raises(CorruptError, match="view 1, block 1"):
            list(stream_targets(entry, [rows(1, 0, SAMPLES)]))
    finally:
        chunk.write_bytes(data)


@pytest.mark.parametrize("wrong", [(0, 3, 3), (0, -1, 2), (0, 4, SAMPLES + 1)])
def test_ranges_that_are_none_are_refused(entry: Entry, wrong: tuple[int, int, int]) -> None:
    with pytest.raises(CacheError, match="no such rows"):
        list(stream_targets(entry, [rows(*wrong)]))
    assert reading_threads() == []
