"""Writers of one block: unfinished, several at once, and with a disk or a memory that alters bytes."""

from pathlib import Path

import pytest

from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import ZarrChunk
from kdcache.errors import CorruptError, RecordedError
from support.small_cache import PROVENANCE, TOPK, fill, kept, open_entry, tree
from support.targets_contract import same


def test_what_an_unfinished_block_left_is_written_over(tmp_path: Path) -> None:
    entry = open_entry(tmp_path)
    entry.open_block(0, 0).append(kept(TOPK, 1, 0, 4))  # other targets, never recorded
    assert entry.recorded(0) == set()
    fill(entry)
    fill(open_entry(tmp_path / "whole"))
    expected = tree(tmp_path / "whole")
    assert {name: data for name, data in tree(tmp_path).items() if not name.startswith("whole")} == expected


def test_two_writers_of_the_same_bytes_agree(tmp_path: Path) -> None:
    first, second = open_entry(tmp_path), open_entry(tmp_path)
    targets = kept(TOPK, 0, 0, 4)
    one, two = first.open_block(0, 0), second.open_block(0, 0)
    for writer in (one, two):
        writer.append(targets)
    for writer in (one, two):
        writer.finish(PROVENANCE)
    assert first.recorded(0) == {0}
    first.read_block(0, 0)


def test_a_writer_leaves_a_block_alone_once_another_has_recorded_it(tmp_path: Path) -> None:
    first, second = open_entry(tmp_path), open_entry(tmp_path)
    late = second.open_block(0, 1)
    first.write_block(0, 1, kept(TOPK, 0, 4, 8), PROVENANCE)
    before = tree(tmp_path)
    with pytest.raises(RecordedError, match="recorded already"):
        late.append(kept(TOPK, 1, 4, 8))
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("file_rows")
def test_of_two_writers_of_other_bytes_nothing_is_left_that_is_half_and_half(tmp_path: Path) -> None:
    first, second = open_entry(tmp_path), open_entry(tmp_path)
    one, two = first.open_block(0, 1), second.open_block(0, 1)
    one.append(kept(TOPK, 0, 4, 8))
    two.append(kept(TOPK, 1, 4, 8))
    one.finish(PROVENANCE)  # over the chunks of `two`
    with pytest.raises(RecordedError, match="at the same time with other bytes"):
        two.finish(PROVENANCE)
    assert Cache.open(tmp_path).entry("teacher").listed(0) == set()


@pytest.mark.parametrize("file_rows", [(2, 2), (2, 1)], indirect=True)
def test_a_writer_that_stops_within_a_block_leaves_none_that_is_half_and_half(tmp_path: Path, file_rows: int) -> None:
    first, second = open_entry(tmp_path), open_entry(tmp_path)
    one, two = first.open_block(0, 1), second.open_block(0, 1)
    one.append(kept(TOPK, 0, 4, 4 + file_rows))
    two.append(kept(TOPK, 1, 4, 4 + file_rows))  # over the first files of `one`
    one.append(kept(TOPK, 0, 4 + file_rows, 8))
    one.finish(PROVENANCE)
    with pytest.raises(RecordedError, match="at the same time with other bytes"):
        two.append(kept(TOPK, 1, 4 + file_rows, 8))
    assert Cache.open(tmp_path).entry("teacher").listed(0) == set()


@pytest.mark.parametrize("file_rows", [(2, 2), (2, 1)], indirect=True)
def test_a_writer_that_stops_within_a_block_leaves_one_that_is_whole(tmp_path: Path, file_rows: int) -> None:
    first, second = open_entry(tmp_path), open_entry(tmp_path)
    one, two = first.open_block(0, 1), second.open_block(0, 1)
    two.append(kept(TOPK, 1, 4, 4 + file_rows))
    one.append(kept(TOPK, 0, 4, 8))
    one.finish(PROVENANCE)
    with pytest.raises(RecordedError, match="recorded already"):
        two.append(kept(TOPK, 1, 4 + file_rows, 8))
    assert Cache.open(tmp_path).entry("teacher").listed(0) == {1}


@pytest.mark.usefixtures("file_rows")
def test_of_two_writers_of_other_bytes_the_one_whose_chunks_are_there_wins(tmp_path: Path) -> None:
    first, second = open_entry(tmp_path), open_entry(tmp_path)
    one, two = first.open_block(0, 1), second.open_block(0, 1)
    two.append(kept(TOPK, 1, 4, 8))
    one.append(kept(TOPK, 0, 4, 8))
    one.finish(PROVENANCE)
    two.finish(PROVENANCE)
    assert same(Cache.open(tmp_path).entry("teacher").read_block(0, 1), first.read_block(0, 1))


@pytest.mark.usefixtures("file_rows")
@pytest.mark.parametrize("altered", [0, -1])
def test_bytes_that_come_back_altered_from_the_disk_are_never_recorded(
    tmp_path: Path, altered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = open_entry(tmp_path)
    files = entry._files
    put = type(files).put

    def put_altered(self: object, key: str, *parts: bytes) -> None:
        changed = list(parts)
        changed[altered] = parts[altered][:-1] + bytes([parts[altered][-1] ^ 1])
        put(files, key, *changed)  # type: ignore[arg-type]

    monkeypatch.setattr(type(files), "put", put_altered)
    with pytest.raises(CorruptError, match="read back with other bytes"):
        entry.write_block(0, 0, kept(TOPK, 0, 0, 4), {})
    assert entry.listed(0) == set()


@pytest.mark.usefixtures("file_rows")
def test_what_cannot_be_decoded_again_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = open_entry(tmp_path)
    before = tree(tmp_path)
    encode = ZarrChunk.encode
    monkeypatch.setattr(ZarrChunk, "encode", lambda codec, values: encode(codec, values ^ 1))
    with pytest.raises(CorruptError, match=r"could not be decoded again.*memory or processor"):
        entry.write_block(0, 0, kept(TOPK, 0, 0, 4), {})
    assert {name: data for name, data in tree(tmp_path).items() if data is not None} == {
        name: data for name, data in before.items() if data is not None
    }
