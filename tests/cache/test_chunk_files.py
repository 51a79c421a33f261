"""A file of several chunks is what Zarr makes of them, byte for byte."""

import json
import os
import resource
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.chunk_files import ChunkFile, index_length
from kdcache.cache.durable import LocalFiles
from kdcache.cache.entry import Entry
from kdcache.cache.identity import canonical, seal
from kdcache.cache.layout import Layout
from kdcache.cache.record import BlockRecord, Stored
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import ZarrChunk
from kdcache.errors import CorruptError, KdcacheError
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.targets.base import TargetCodec
from kdcache.targets.full import FullCodec
from support.small_cache import CLASSES, EMBEDDING, FULL, TOPK, VIEW_SET, fill, identity_of, open_entry, small_chunks


@pytest.mark.parametrize("codec", [TOPK, FULL, EMBEDDING], ids=["topk", "float32", "embedding"])
@pytest.mark.parametrize("rows", [1, 2])
def test_zarr_writes_the_same_files(tmp_path: Path, codec: TargetCodec, rows: int) -> None:
    """Whole files: that of a view's last rows has as many chunks with Zarr as any other."""
    with small_chunks(TargetCodec, rows):
        entry = fill(open_entry(tmp_path / "ours", codec), 1)
    for name in codec.arrays(rows):
        ours = zarr.open_array(tmp_path / "ours/teachers/teacher" / name, mode="r")
        theirs = zarr.from_array(tmp_path / "theirs" / name, data=ours, write_data=False)
        assert theirs.metadata == ours.metadata
        theirs = theirs.with_config({"write_empty_chunks": True})
        theirs[0] = ours[0]
        files = [entry._file(name, 0, number) for number in range(2)]
        for file in files:
            assert len(file.names) == file.room == 4 // rows
            place = file.key.removeprefix(f"teachers/teacher/{name}/")
            assert (tmp_path / "theirs" / name / place).read_bytes() == (tmp_path / "ours" / file.key).read_bytes()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9), st.integers(0, 3))
def test_places_follow_from_lengths(lengths: list[int], empty: int) -> None:
    names = tuple(f"a/{number}" for number in range(7, 7 + len(lengths)))
    file = ChunkFile("a/c/0/1", names, len(lengths) + empty)
    chunks = {name: Stored(0, length) for name, length in zip(names, lengths, strict=True)}
    assert file.array == "a"
    assert [file.start(name, chunks) for name in names] == [sum(lengths[:number]) for number in range(len(names))]
    index = file.recorded_index(chunks)
    assert len(index) == index_length(file.room)
    assert file.length(chunks) == sum(lengths) + len(index)
    if file.room > 1:
        said = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
        assert said[: len(names), 1].tolist() == lengths
        assert (said[len(names) :] == 2**64 - 1).all()


def test_of_a_file_the_chunk_is_read_that_is_asked_for(tmp_path: Path) -> None:
    with small_chunks(TargetCodec, 1):
        fill(open_entry(tmp_path, FULL), 1)
        entry = Cache.open(tmp_path).entry("teacher")
        (file,) = entry.block_files(0, 1)
        record, path = entry.record(0, 1), tmp_path / file.key
        expected = entry.read_chunk(0, 6).log_probs(num_classes=CLASSES)
        start, length = file.start("log_prob/6", record.chunks), record.chunks["log_prob/6"].length
        data = path.read_bytes()
        path.write_bytes(bytes(start) + data[start : start + length])
        assert torch.equal(entry.read_chunk(0, 6).log_probs(num_classes=CLASSES), expected)
        for chunk in (4, 5, 7):
            with pytest.raises(CorruptError, match="Array 'log_prob' of teacher 'teacher', view 0, block 1"):
                entry.read_chunk(0, chunk)


NAMED = {f"log_prob/{chunk}" for chunk in range(4, 8)}


@pytest.mark.parametrize("lacks", [NAMED, {"log_prob/4"}, {"log_prob/5"}, set()], ids=["all", "first", "this", "none"])
@pytest.mark.parametrize("absurd", ["log_prob/4", "log_prob/5", None])
def test_a_record_that_says_something_else_of_a_file_is_an_error(
    tmp_path: Path, lacks: set[str], absurd: str | None
) -> None:
    """However much it says that there is to be read."""
    with small_chunks(TargetCodec, 1):
        fill(open_entry(tmp_path, FULL), 1)
        path = tmp_path / "teachers/teacher/records/0/1.json"
        content = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "check"}
        changed = content["chunks"] | ({absurd: [0, 2**32 - 1]} if absurd else {"other/1": [0, 1]})
        content["chunks"] = {name: stored for name, stored in changed.items() if name not in lacks}
        path.write_text(canonical(seal(content)))
        entry = Cache.open(tmp_path).entry("teacher")
        if absurd or lacks:
            with pytest.raises(CorruptError, match="is not what was written"):
                entry.read_chunk(0, 5)
        with pytest.raises(CorruptError):
            entry.check_bytes(0, 1)
        if lacks or not absurd:
            with pytest.raises(CorruptError, match="names other chunks"):
                entry.stored_bytes(0)
        told = inspect(InspectOptions(str(tmp_path))).teachers[0]
        assert len(told.problems) == 1
        assert (told.complete, told.damaged) == ((), {0: (1,)})


def test_every_byte_of_an_index_is_looked_at(tmp_path: Path) -> None:
    """kdcache reads without it, and every other library by it."""
    with small_chunks(TargetCodec, 2):
        entry = fill(open_entry(tmp_path, FULL), 1)
        for block in range(3):
            (file,) = entry.block_files(0, block)
            path, data = tmp_path / file.key, (tmp_path / file.key).read_bytes()
            length = index_length(file.room)
            other = "has another index than was written"
            wrong = [(cut, f"and {len(data):,} were written") for cut in (data[:-1], data + b"?", data[:-length], b"")]
            # Of one file every byte; of the others, whose index is read by the same lines, the first and the last.
            places = range(len(data) - length, len(data), 1 if block == 0 else length - 1)
            for place in places:
                wrong.append((data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], other))
            for altered, said in wrong:
                path.write_bytes(altered)
                (finding,) = verify(VerifyOptions(str(tmp_path))).findings
                assert (finding.teacher, finding.view, finding.block) == ("teacher", 0, block)
                assert f"Array 'log_prob' of teacher 'teacher', view 0, block {block}" in finding.problem
                assert said in finding.problem
                with pytest.raises(CorruptError, match=said):
                    entry.check_bytes(0, block)
            path.write_bytes(data)
        assert verify(VerifyOptions(str(tmp_path))).whole


@pytest.mark.parametrize("rows", [4, 2])
@pytest.mark.parametrize("size", [2**32, 2**42])
def test_a_file_of_terabytes_is_not_read(tmp_path: Path, rows: int, size: int) -> None:
    """Nor is a record believed that says so; a sparse file takes no room."""
    with small_chunks(TargetCodec, rows):
        entry = fill(open_entry(tmp_path, FULL), 1)
        (file,) = entry.block_files(0, 1)
        os.truncate(tmp_path / file.key, size)
        path = tmp_path / "teachers/teacher/records/0/1.json"
        content = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "check"}
        content["chunks"] |= {file.names[0]: [0, 2**32 - 1]}
        path.write_text(canonical(seal(content)))
        os.truncate(tmp_path / "windows/c/0", size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CorruptError, match="is not what was written"):
            Cache.open(tmp_path).entry("teacher").read_chunk(0, file.room)
        assert not verify(VerifyOptions(str(tmp_path))).whole
        with pytest.raises(KdcacheError, match=r"has more than 512 MiB, and no file of a cache"):
            _ = Cache.open(tmp_path).windows
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "a quarter of a gigabyte, in kB"


def test_a_block_that_is_said_to_have_millions_of_chunks_takes_no_memory(tmp_path: Path) -> None:
    classes, rows = 2**20, 2**24
    view_set = replace(VIEW_SET, samples=rows, block_rows=rows)
    codec = FullCodec(classes)
    layout = Layout(rows, rows, codec.file_rows(rows), codec.chunk_rows(rows))
    assert layout.chunks > 2**22
    codecs = {name: ZarrChunk(spec) for name, spec in codec.arrays(layout.chunk_rows).items()}
    files = LocalFiles(tmp_path)
    tracemalloc.start()
    try:
        entry = Entry(files, view_set, identity_of(codec), codec, codecs)
        record = BlockRecord({"log_prob/0": Stored(0, 9)}, {}, block_id=entry.recorded_id(0, 0))
        files.put("teachers/teacher/records/0/0.json", record.to_bytes())
        assert entry.recorded(0) == set()
        with pytest.raises(CorruptError, match="another block's"):
            entry.own_record(0, 0)
        # The names of as many chunks would take half a gigabyte; the limits of JSON alone take a few kilobytes.
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_inspect_counts_what_lies_on_the_disk(tmp_path: Path) -> None:
    with small_chunks(TargetCodec, 1):
        fill(open_entry(tmp_path, FULL), 1)
        told = inspect(InspectOptions(str(tmp_path))).teachers[0].array_bytes
    folder = tmp_path / "teachers/teacher"
    for name, there in (("log_prob", folder / "log_prob/c"), ("records", folder / "records/0")):
        assert told[name] == sum(path.stat().st_size for path in there.rglob("*") if path.is_file())
