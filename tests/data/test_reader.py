"""Images are read several at a time, so that a disk that takes long for each does not take as long for all."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from kdcache.data import reader as reader_module
from kdcache.data.index import Index, open_index
from kdcache.data.reader import AT_ONCE, SampleReader
from kdcache.errors import DataError
from support.shards import make_shards

IMAGES, SHARDS = 48, 3
LIMIT = 60  # seconds; a guard against hanging


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(make_shards(tmp_path_factory.mktemp("data"), images=IMAGES, shards=SHARDS))


def alone(index: Index, samples: np.ndarray) -> list[bytes]:
    """The images, read one after the other without the reader."""
    found = []
    for sample in samples.tolist():
        with open(index.shards[index.shard[sample]], "rb") as file:
            file.seek(int(index.offset[sample]))
            found.append(file.read(int(index.length[sample])))
    return found


def test_reads_overlap(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read of a slow disk ends when as many others have begun as are to be made at once."""
    others, pread = threading.Barrier(AT_ONCE), os.pread

    def slow(descriptor: int, length: int, offset: int) -> bytes:
        others.wait(LIMIT)
        return pread(descriptor, length, offset)

    samples = np.random.default_rng(0).permutation(IMAGES)
    with SampleReader(index) as reader, monkeypatch.context() as patch:
        patch.setattr(os, "pread", slow)
        found = reader.read(samples)
    assert found == alone(index, samples)


@pytest.mark.parametrize("count", [0, 1, AT_ONCE - 1, AT_ONCE + 1, IMAGES])
def test_any_number_is_read_in_the_order_given(index: Index, count: int) -> None:
    samples = np.random.default_rng(count).integers(0, IMAGES, count)
    with SampleReader(index) as reader:
        assert reader.read(samples) == alone(index, samples)


def test_after_it_was_closed_or_where_no_thread_can_start_it_reads_in_one(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.arange(IMAGES)
    reader = SampleReader(index)
    reader.close()
    assert reader.read(samples) == alone(index, samples)

    class NoThreads(reader_module.ThreadPoolExecutor):
        def submit(self, *arguments, **choice):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(reader_module, "ThreadPoolExecutor", NoThreads)
    with SampleReader(index) as reader:
        assert reader.read(samples) == alone(index, samples)


def test_the_first_sample_that_cannot_be_read_is_the_one_that_is_named(tmp_path: Path) -> None:
    index = open_index(make_shards(tmp_path, images=IMAGES, shards=SHARDS))
    os.truncate(index.shards[1], 0)
    os.truncate(index.shards[2], 0)
    first = min(np.flatnonzero(index.shard == 1).tolist(), key=lambda sample: index.offset[sample])
    with SampleReader(index) as reader, pytest.raises(DataError) as refused:
        reader.read(np.arange(IMAGES)[::-1].copy())
    assert str(refused.value).startswith(index.describe(first))
