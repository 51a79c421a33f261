"""A cache that is whole is said to be; any byte that is not what was written is found, and its block named."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache.identity import seal
from kdcache.cache.metadata import cache_metadata, entry_metadata
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import is_metadata
from kdcache.errors import CacheError
from support.damage import look
from support.disks import Killed, WatchedDisk
from support.small_cache import VIEW_SET, open_entry, tree


def test_a_whole_cache_is_whole(cache: Path) -> None:
    before = tree(cache)
    report = look(cache)
    assert report.whole
    assert report.findings == ()
    assert (report.teachers, report.blocks, report.targets) == (("other", "teacher"), 13, 4 * 11 + 4)
    assert report.lines() == [
        "other lacks blocks 0, 2 of view 2: until the same dump-logits has made them, trainings take views 0-1 only.",
        f"{cache} is whole: 13 blocks with 48 targets of other, teacher.",
    ]
    assert report.to_json()["whole"] is True
    assert report.to_json()["missing"] == {"other": {"blocks": {2: (0, 2)}, "usable_views": 2}}
    assert tree(cache) == before


def test_one_flipped_byte_in_any_file_is_found(cache: Path) -> None:
    rng = random.Random(0)
    files = [path for path in sorted(cache.rglob("*")) if path.is_file()]
    assert {path.name for path in files} >= {"zarr.json", "0.json", "0"}
    for path in files:
        data = path.read_bytes()
        place = rng.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :])
        report = look(cache)
        assert not report.whole, f"byte {place} of {path}"
        parts = path.relative_to(cache).parts
        blocks = [(found.teacher, found.view, found.block) for found in report.findings if found.block is not None]
        if "records" in parts and path.name != "zarr.json":
            assert blocks == [(parts[1], int(parts[3]), int(path.stem))]
        elif parts[0] == "teachers" and "c" in parts and "order" not in parts:
            (teacher, view, block) = blocks[0]
            assert len(blocks) == 1
            assert (teacher, view) == (parts[1], int(parts[parts.index("c") + 1]))
            assert block in map(int, parts[parts.index("c") + 2 :])
        else:
            assert any(str(path) in found.problem for found in report.findings) or path.parts[-3] == "windows"
        path.write_bytes(data)
    assert look(cache).whole


def test_no_byte_of_metadata_is_idle(made: Path) -> None:
    rng = random.Random(1)
    cache = Cache.open(made)
    for key, expected in (cache_metadata(VIEW_SET) | entry_metadata(cache.entry("teacher"))).items():
        assert is_metadata((made / key).read_bytes(), expected)
        for place in range(0, len(expected), 3):
            flipped = expected[:place] + bytes([expected[place] ^ rng.randrange(1, 256)]) + expected[place + 1 :]
            assert not is_metadata(flipped, expected), f"{flipped!r}"


def test_metadata_that_another_zarr_orders_otherwise_is_the_same(made: Path) -> None:
    data = (made / "zarr.json").read_bytes()
    other = json.dumps(dict(reversed(json.loads(data).items())), indent=2).encode()
    assert other != data
    assert is_metadata(other, data)
    fuller = json.dumps({**json.loads(data), "consolidated_metadata": None}, indent=2).encode()
    assert is_metadata(fuller, data)
    for text in (b"", b"[]", b"null", b"[" * 100_000, data + b"\n"):
        assert not is_metadata(text, data)


@pytest.mark.parametrize("key", ["windows/c/0", "windows/zarr.json", "teachers/zarr.json", "teachers/other/zarr.json",
                                 "teachers/teacher/records/zarr.json", "teachers/teacher/records/1/2.json",
                                 "teachers/other/log_prob/zarr.json", "teachers/other/log_prob/c/0/1/0"])  # fmt: skip
def test_a_lost_file_is_found_unless_it_is_a_record(cache: Path, key: str) -> None:
    (cache / key).unlink()
    report = look(cache)
    if key.endswith("1/2.json"):  # without its record a block does not exist, and is not missed
        assert report.whole
        assert report.blocks == 12
    else:
        assert not report.whole
        assert any(
            str(Path(key).parent) in found.problem and "is missing" in found.problem for found in report.findings
        )


def test_stopped_anywhere_before_the_first_record_a_cache_is_whole(tmp_path: Path) -> None:
    """What is missing then was never written, and the next dump completes it."""
    whole = WatchedDisk()
    open_entry(tmp_path / "whole", disk=whole)
    looked = 0
    for operation in range(len(whole.operations)):
        path = tmp_path / str(operation)
        with pytest.raises(Killed):
            open_entry(path, disk=WatchedDisk(operation))
        if Cache.exists(path):
            looked += 1
            assert look(path).findings == (), f"stopped before {whole.operations[operation]}"
    assert looked
    meta = tmp_path / "whole/teachers/teacher/tail/zarr.json"
    meta.write_bytes(meta.read_bytes()[:-1])
    assert not look(tmp_path / "whole").whole, "what is there has to be what was written"


def test_many_problems_are_counted_and_the_first_named(cache: Path) -> None:
    for path in cache.glob("teachers/*/records/*/*.json"):
        path.write_bytes(b"")
    for path in cache.glob("teachers/teacher/*/zarr.json"):
        path.unlink()
    lines = look(cache).lines()
    assert "NOT whole" in lines[-1]
    assert len(look(cache).to_json()["findings"]) == len(look(cache).findings) > 13


def unreadable(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Reading whatever lies below a folder of one of these names fails, as on a disk with bad sectors."""
    read = os.open

    def fail(path: Path | str, *choice: Any, **choices: Any) -> int:
        if os.path.isabs(path) and set(folders) & set(Path(path).parts):
            raise OSError(5, "Input/output error", str(path))
        return read(path, *choice, **choices)

    monkeypatch.setattr(os, "open", fail)


def test_what_cannot_be_read_is_named_and_the_rest_is_looked_at(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it dropped: else --repair would give up sound blocks on a bad day of the network."""
    (cache / "teachers/other/records/0/1.json").write_bytes(b"?")
    before = tree(cache)
    unreadable(monkeypatch, "level")
    report = look(cache, repair=True)
    found = [(part.teacher, part.view, part.block) for part in report.findings if part.repair is None]
    assert found == [("teacher", view, block) for view in range(2) for block in range(3)]
    assert all("Input/output error" in part.problem for part in report.findings if part.repair is None)
    assert (report.blocks, report.dropped) == (13, 1)
    monkeypatch.undo()
    assert tree(cache) == {key: data for key, data in before.items() if key != "teachers/other/records/0/1.json"}


def test_a_place_that_is_gone_is_not_asked_for_every_block(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.inspection.verify.MAX_UNREADABLE", 3)
    unreadable(monkeypatch, "level", "log_prob")
    report = look(cache)
    assert report.blocks == 3
    assert "3 blocks in a row cannot be read, so that the other 10 were not read" in report.findings[-1].problem


@pytest.mark.parametrize("key", ["zarr.json", "windows", "teachers", "records", "order"])
def test_whatever_cannot_be_read_is_a_finding(cache: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unreadable(monkeypatch, key)
    report = look(cache)
    assert not report.whole
    assert any("Input/output error" in found.problem for found in report.findings)


def test_a_folder_that_cannot_be_listed_is_a_finding(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = os.listdir

    def fail(path: Path) -> list[str]:
        if path == cache / "teachers/other/records/1":
            raise OSError(5, "Input/output error", str(path))
        return names(path)

    monkeypatch.setattr(os, "listdir", fail)
    report = look(cache)
    assert [(found.teacher, found.view) for found in report.findings] == [("other", 1)]
    assert report.blocks == 10


def test_no_cache_is_an_error_and_no_finding(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="There is no cache"):
        look(tmp_path)


def test_a_teacher_under_anothers_name_is_found(cache: Path) -> None:
    (cache / "teachers/other").rename(cache / "teachers/third")
    assert [found.teacher for found in look(cache).findings] == ["third"]


def test_a_view_set_that_was_swapped_is_found(cache: Path) -> None:
    meta = json.loads((cache / "zarr.json").read_text())
    meta["attributes"]["kdcache"] = seal(replace(VIEW_SET, windows="0" * 64).to_json())
    (cache / "zarr.json").write_text(json.dumps(meta, indent=2))
    assert any("windows" in found.problem for found in look(cache).findings)
