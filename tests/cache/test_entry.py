"""Blocks: written whole and once, read back checked, and made anew when they are damaged."""

from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import ZarrChunk
from kdcache.errors import CacheError, CorruptError
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.targets.base import TargetCodec
from support.small_cache import (
    FULL,
    PROVENANCE,
    SAMPLES,
    TOPK,
    fill,
    in_files,
    kept,
    labels_of,
    open_entry,
    said,
    tree,
)
from support.targets_contract import same

RECORD = "teachers/teacher/records/0/1.json"


def read(entry: Entry, view: int = 0, block: int = 1) -> object:
    return entry.read_block(view, block)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    fill(open_entry(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("file_rows")
@pytest.mark.parametrize("codec", [TOPK, FULL])
def test_what_was_written_is_read(tmp_path: Path, codec: TargetCodec) -> None:
    fill(open_entry(tmp_path, codec))
    entry = Cache.open(tmp_path).entry("teacher")
    for view in range(2):
        for block in range(3):
            start, stop = entry.layout.block_range(block)
            targets = kept(codec, view, start, stop)
            expected = codec.decode(codec.encode(targets, 4), stop - start)
            assert same(entry.read_block(view, block), expected)
            if codec is FULL:
                assert torch.equal(entry.read_block(view, block).log_probs(num_classes=12), said(view, start, stop))
        assert entry.record(view, 1).provenance == PROVENANCE


def test_large_arrays_are_compressed_at_the_same_time_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_entry(tmp_path / "one by one"))
    monkeypatch.setattr("kdcache.cache.entry.TOGETHER", 0)
    others, encode = Barrier(len(TOPK.arrays(1))), ZarrChunk.encode

    def waiting(codec: ZarrChunk, values: np.ndarray) -> bytes:
        others.wait(60)  # a guard against hanging
        return encode(codec, values)

    entry = open_entry(tmp_path / "together")
    monkeypatch.setattr(ZarrChunk, "encode", waiting)
    for view in range(2):
        for block in range(3):
            entry.write_block(view, block, kept(TOPK, view, *entry.layout.block_range(block)), PROVENANCE)
    assert tree(tmp_path / "together") == tree(tmp_path / "one by one")


@pytest.mark.usefixtures("file_rows")
def test_a_block_may_come_in_any_pieces(tmp_path: Path) -> None:
    written = []
    for cuts in ([], [1], [3], [1, 2, 3], [0, 2, 2]):
        path = tmp_path / str(cuts)
        writer = open_entry(path).open_block(0, 1)
        for start, stop in zip([0, *cuts], [*cuts, 4], strict=True):
            writer.append(kept(TOPK, 0, 4 + start, 4 + stop))
        writer.finish(PROVENANCE)
        written.append(tree(path))
    assert written == [written[0]] * 5


@pytest.mark.parametrize("chunk_rows", [1, 2])
def test_what_fills_a_file_does_not_wait_in_memory(
    tmp_path: Path, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_files(2, chunk_rows, monkeypatch)
    writer = open_entry(tmp_path).open_block(0, 0)
    writer.append(kept(TOPK, 0, 0, 3))
    assert (tmp_path / "teachers/teacher/tail/c/0/0").exists()
    assert not (tmp_path / "teachers/teacher/tail/c/0/1").exists()


def test_blocks_and_views_are_counted(tmp_path: Path) -> None:
    entry = open_entry(tmp_path)
    assert entry.complete_views() == 0
    assert entry.recorded(0) == entry.listed(0) == set()
    fill(entry, views=1)
    entry.write_block(2, 1, kept(TOPK, 2, 4, 8), PROVENANCE)
    assert entry.complete_views() == 1
    assert [entry.recorded(view) for view in range(4)] == [{0, 1, 2}, set(), {1}, set()]
    (tmp_path / "teachers/teacher/records/0/x.json").write_text("")
    (tmp_path / "teachers/teacher/records/0/7.json").write_text("")
    (tmp_path / "teachers/teacher/records/notes").mkdir()
    assert entry.listed(0) == {0, 1, 2}
    fill(entry, views=3)
    assert entry.complete_views() == 3


def test_a_recorded_block_is_never_written_again(filled: Path) -> None:
    before = tree(filled)
    with pytest.raises(CacheError, match="never written again"):
        open_entry(filled).open_block(0, 1)
    assert tree(filled) == before


def test_a_block_needs_all_of_its_rows_and_no_more(tmp_path: Path) -> None:
    entry = open_entry(tmp_path)
    with pytest.raises(CacheError, match="lacks 1 rows"):
        entry.write_block(0, 0, kept(TOPK, 0, 0, 3), {})
    with pytest.raises(CacheError, match="3 rows left, and 4 were given"):
        entry.write_block(0, 2, kept(TOPK, 0, 0, 4), {})
    for view, block in ((65536, 0), (-1, 0), (0, 3)):
        with pytest.raises(CacheError):
            entry.write_block(view, block, kept(TOPK, 0, 0, 4), {})
    assert entry.listed(0) == set()


def test_a_block_that_is_not_there_says_how_to_make_it(filled: Path) -> None:
    with pytest.raises(CacheError, match=r"View 5, block 1 .*dump-logits"):
        read(Cache.open(filled).entry("teacher"), view=5)


@pytest.mark.parametrize("array", ["top", "count", "class", "level", "tail", "label"])
def test_any_flipped_byte_is_found_and_named(filled: Path, array: str) -> None:
    path = filled / "teachers/teacher" / array / ("c/0/0/1" if array == "label" else "c/0/1")
    data = path.read_bytes()
    entry = Cache.open(filled).entry("teacher")
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        with pytest.raises(CorruptError) as caught:
            read(entry)
        for word in (
            f"Array '{array}'",
            "view 0, block 1",
            str(path),
            f"kdcache verify {filled} --repair",
            "dump-logits",
        ):
            assert word in str(caught.value)
    path.write_bytes(data)
    read(entry)


@pytest.mark.parametrize("array", ["class", "level", "tail"])
def test_another_views_sound_chunk_is_not_taken_for_this(filled: Path, array: str) -> None:
    """Its own checksum is right: only the record can tell."""
    folder = filled / "teachers/teacher" / array / "c"
    (folder / "0/1").write_bytes((folder / "1/1").read_bytes())
    with pytest.raises(CorruptError, match=f"Array '{array}'"):
        read(Cache.open(filled).entry("teacher"))


@pytest.mark.parametrize("damage", ["missing", "shorter", "longer"])
def test_a_chunk_of_another_length_means_no_block(filled: Path, damage: str) -> None:
    before = tree(filled)
    path = filled / "teachers/teacher/class/c/0/1"
    data = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(data[:-1] if damage == "shorter" else data + b"x")
    entry = open_entry(filled)
    with pytest.raises(CorruptError, match="is missing" if damage == "missing" else "is not what was written"):
        read(entry)
    assert entry.recorded(0) == {0, 2}
    fill(entry)
    assert tree(filled) == before
    read(entry)


def test_the_remedy_for_a_flipped_byte_works(filled: Path) -> None:
    before = tree(filled)
    path = filled / "teachers/teacher/level/c/0/1"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptError, match=rf"Run `kdcache verify {filled} --repair`, .* then the same dump-logits"):
        read(open_entry(filled))
    assert verify(VerifyOptions(str(filled), repair=True)).dropped == 1
    fill(open_entry(filled))
    assert tree(filled) == before


@pytest.mark.parametrize("damage", [b"", b"{}", b"null", b'{"chunks":{},"provenance":{},"check":"0"}'])
def test_a_damaged_record_means_no_block(filled: Path, damage: bytes) -> None:
    before = tree(filled)
    (filled / RECORD).write_bytes(damage)
    entry = open_entry(filled)
    with pytest.raises(CorruptError, match=RECORD):
        read(entry)
    assert entry.recorded(0) == {0, 2}
    fill(entry)
    assert tree(filled) == before


def test_a_record_of_another_block_means_no_block(filled: Path) -> None:
    before = tree(filled)
    (filled / RECORD).write_bytes((filled / RECORD.replace("1.json", "0.json")).read_bytes())
    entry = open_entry(filled)
    with pytest.raises(CorruptError):
        read(entry)
    assert entry.recorded(0) == {0, 2}
    fill(entry)
    assert tree(filled) == before


def test_other_labels_than_those_written_are_noticed(filled: Path) -> None:
    targets = Cache.open(filled).entry("teacher").read_block(0, 1)
    targets.with_labels(torch.from_numpy(labels_of(0, 4, 8)))
    with pytest.raises(CorruptError, match="other labels"):
        targets.with_labels(torch.full((4, 2), -1))


def test_without_a_label_space_there_are_no_exceptions(tmp_path: Path) -> None:
    entry = open_entry(tmp_path, label_space="none")
    start, stop = entry.layout.block_range(1)
    nobody = torch.full((4, 2), -1)
    entry.write_block(0, 1, TOPK.select(said(0, start, stop), nobody), {})
    targets = entry.read_block(0, 1).with_labels(nobody)
    assert bool(targets.label_log_prob().isnan().all())


@pytest.mark.usefixtures("file_rows")
def test_bytes_are_counted_by_array(tmp_path: Path) -> None:
    entry = fill(open_entry(tmp_path))
    for view in range(2):
        folder = tmp_path / "teachers/teacher"
        expected = {
            name: sum(path.stat().st_size for path in (folder / name / "c" / str(view)).rglob("*") if path.is_file())
            for name in TOPK.arrays(1)
        }
        expected["records"] = sum(path.stat().st_size for path in (folder / f"records/{view}").iterdir())
        assert entry.stored_bytes(view) == expected
    assert set(entry.stored_bytes(9).values()) == {0}


def test_the_rows_beyond_the_last_are_not_targets(filled: Path) -> None:
    """The last block has 3 rows of 4."""
    assert SAMPLES == 11
    assert len(read(Cache.open(filled).entry("teacher"), block=2)) == 3  # type: ignore[arg-type]


@pytest.mark.usefixtures("file_rows")
@pytest.mark.parametrize("codec", [TOPK, FULL])
@pytest.mark.parametrize("part", [1, 30, 2**20])
def test_parts_of_a_chunk_are_the_whole(
    tmp_path: Path, codec: TargetCodec, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.cache.entry.PART", part)
    fill(open_entry(tmp_path, codec), 1)
    entry = Cache.open(tmp_path).entry("teacher")
    for chunk in range(entry.layout.chunks):
        parts = list(entry.read_parts(0, chunk))
        assert same(type(parts[0]).concat(parts), entry.read_chunk(0, chunk))
        if part == 1:
            assert {len(found) for found in parts} == {1}


def test_names_that_no_dump_gives_are_no_blocks(filled: Path) -> None:
    """Else a backup of a record would be a block, or a view, twice."""
    records = (filled / RECORD).parent
    for name in ("01.json", "+1.json", "1.json.json", "\u0661.json"):
        (records / name).write_bytes((filled / RECORD).read_bytes())
    (records.parent / "00").mkdir()
    entry = Cache.open(filled).entry("teacher")
    (filled / RECORD).unlink()
    assert entry.views() == [0, 1]
    assert entry.listed(0) == entry.recorded(0) == {0, 2}
