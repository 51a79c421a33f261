"""A cache that is whole is said to be; any byte that is not what was written is found, and its block named."""

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from kdcache.cache.durable import Disk
from kdcache.cache.identity import seal
from kdcache.cache.mending import mended_identity
from kdcache.cache.metadata import cache_metadata, entry_metadata
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import is_metadata
from kdcache.errors import CacheError
from kdcache.jobs.copy import CopyRequest, copy_cache
from kdcache.jobs.examining.health import VerifyReport
from kdcache.jobs.verify import VerifyRequest, verify
from support.disks import Killed, WatchedDisk
from support.small_cache import CLASSES, FULL, TOPK, VIEW_SET, WINDOWS, fill, kept, open_entry, small_chunks, tree
from support.targets_contract import random_order

VIEWS = 2


@pytest.fixture(scope="module", autouse=True)
def several_in_a_file() -> Iterator[None]:
    """Of the second teacher, a file has two chunks."""
    with small_chunks():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, one of each kind; the second has a view that is not complete."""
    path = tmp_path_factory.mktemp("made") / "cache"
    fill(open_entry(path, TOPK), VIEWS)
    other = open_entry(path, FULL, name="other")
    fill(other, VIEWS)
    other.write_block(VIEWS, 1, kept(FULL, VIEWS, 4, 8), {"renderer": "pillow"})
    return path


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "cache"))


def look(path: Path, repair: bool = False) -> VerifyReport:
    return verify(VerifyRequest(cache=str(path), repair=repair))


def test_a_whole_cache_is_whole(cache: Path) -> None:
    before = tree(cache)
    report = look(cache)
    assert report.whole
    assert report.findings == ()
    assert (report.teachers, report.blocks, report.answers) == (("other", "teacher"), 13, 4 * 11 + 4)
    assert report.lines() == [
        f"{cache} is whole: 13 blocks with 48 answers of other, teacher.",
        "other lacks blocks 0, 2 of view 2: until the same dump-logits has made them, trainings take views 0-1 only.",
    ]
    assert report.to_json()["whole"] is True
    assert report.to_json()["lacking"] == {"other": {"blocks": {2: (0, 2)}, "usable_views": 2}}
    assert tree(cache) == before


def test_what_repair_dropped_is_told_as_missing_from_then_on(cache: Path) -> None:
    (cache / "teachers/teacher/level/c/0/0").write_bytes(b"?")
    lacks = "teacher lacks block 0 of view 0: until the same dump-logits has made it, trainings take none of its views"
    assert not any(lacks in line for line in look(cache).lines())  # a record is there, and it is damaged
    repaired, after = look(cache, repair=True), look(cache)
    assert not repaired.whole
    assert after.whole
    for report in (repaired, after):
        assert f"{lacks}, of 1 view that is whole." in report.lines()


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
        assert any(str(Path(key).parent) in found.problem for found in report.findings)


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


def test_bad_blocks_are_dropped_and_made_again(cache: Path) -> None:
    before = tree(cache)
    for key in ("teachers/teacher/level/c/1/2", "teachers/teacher/records/0/1.json", "teachers/other/log_prob/c/0/0/0"):
        data = (cache / key).read_bytes()
        (cache / key).write_bytes(data[:-3] + b"x" + data[-2:])
    report = look(cache, repair=True)
    assert not report.whole, "what is gone has to be made again"
    assert report.dropped == 3
    assert report.blocks == 13
    assert [line.endswith("It was dropped.") for line in report.lines()[:3]] == [True] * 3
    assert "--repair" not in "\n".join(report.lines())
    assert any(line.startswith("Dropped: 3 bad blocks. Run the same dump-logits again") for line in report.lines())
    again = look(cache)
    assert again.whole
    assert again.blocks == 10
    fill(open_entry(cache), VIEWS)
    fill(open_entry(cache, FULL, name="other"), VIEWS)
    assert tree(cache) == before


def test_without_repair_nothing_is_changed(cache: Path) -> None:
    (cache / "teachers/teacher/records/0/1.json").write_bytes(b"{}")
    before = tree(cache)
    report = look(cache)
    assert not report.whole
    assert f"Run `kdcache verify {cache} --repair`" in report.lines()[0]
    assert report.to_json()["findings"][0]["remedy"] in report.lines()[0]
    assert tree(cache) == before


def test_many_problems_are_counted_and_the_first_named(cache: Path) -> None:
    for path in cache.glob("teachers/*/records/*/*.json"):
        path.write_bytes(b"")
    for path in cache.glob("teachers/teacher/*/zarr.json"):
        path.unlink()
    lines = look(cache).lines()
    assert "NOT whole" in lines[-2]
    assert len(look(cache).to_json()["findings"]) == len(look(cache).findings) > 13


def unreadable(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Reading whatever lies below a folder of one of these names fails, as on a disk with bad sectors."""
    read = Path.open

    def fail(self: Path, *choice: Any, **choices: Any) -> IO[Any]:
        if set(folders) & set(self.parts):
            raise OSError(5, "Input/output error", str(self))
        return read(self, *choice, **choices)

    monkeypatch.setattr(Path, "open", fail)


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
    monkeypatch.setattr("kdcache.jobs.verify.MAX_UNREADABLE", 3)
    unreadable(monkeypatch, "level", "log_prob")
    report = look(cache)
    assert report.blocks == 3
    assert "3 blocks in a row cannot be read, so that the other 10 were not looked at" in report.findings[-1].problem


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


def dump_again(path: Path) -> None:
    """What the same dumps do: they know the windows, the teachers, their tables and their answers."""
    Cache.ensure(path, VIEW_SET, WINDOWS)
    fill(open_entry(path, TOPK), 1)
    fill(open_entry(path, FULL, name="other"), 1)


def flipped(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]


def test_any_flipped_byte_is_put_right_by_repair_and_the_same_dump(tmp_path: Path) -> None:
    rng = random.Random(3)
    open_entry(tmp_path)
    dump_again(tmp_path)
    before = tree(tmp_path)
    for path in [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]:
        path.write_bytes(flipped(rng, path.read_bytes()))
        report = look(tmp_path, repair=True)
        assert not report.whole
        assert report.repairs is not None
        assert report.repairs.failed == []
        dump_again(tmp_path)
        assert tree(tmp_path) == before, path
        assert look(tmp_path).whole


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000])
@pytest.mark.parametrize("key", ["windows/zarr.json", "teachers/zarr.json", "teachers/teacher/records/zarr.json",
                                 "teachers/teacher/tail/zarr.json", "teachers/teacher/order/zarr.json"])  # fmt: skip
def test_what_follows_from_the_identities_is_written_again(cache: Path, key: str, text: str) -> None:
    before = tree(cache)
    if text:
        (cache / key).write_text(text)
    else:
        (cache / key).unlink()
    report = look(cache, repair=True)
    assert report.blocks == 13, "the blocks are looked at all the same"
    assert report.repairs is not None
    assert report.repairs.rewritten == [key]
    assert "Written again as it was: 1 file." in report.lines()
    assert tree(cache) == before


@pytest.mark.parametrize("key", ["zarr.json", "teachers/teacher/zarr.json"])
@pytest.mark.parametrize("text", [None, "", "{}"])
def test_of_an_identity_that_is_lost_it_is_said_what_can_be_done(cache: Path, key: str, text: str | None) -> None:
    if text is None:
        (cache / key).unlink()
    else:
        (cache / key).write_text(text)
    before = tree(cache)
    report = look(cache, repair=True)
    assert tree(cache) == before
    (problem,) = [found.problem for found in report.findings]
    assert str(cache / key) in problem
    assert "`kdcache cache copy` made of any part" in problem
    assert "Not for --repair to put right: 1 problem; what to do stands with each." in report.lines()


def test_a_copy_of_a_part_has_the_identities(cache: Path, tmp_path: Path) -> None:
    """As the sentence about lost ones says."""
    copy_cache(CopyRequest(str(cache), str(tmp_path / "part"), "1", ("teacher",)))
    for key in ("zarr.json", "teachers/teacher/zarr.json", "teachers/teacher/order/c/0/0", "windows/c/0"):
        assert (tmp_path / "part" / key).read_bytes() == (cache / key).read_bytes()


def test_a_lost_table_is_told_with_what_depends_on_it(cache: Path) -> None:
    table = cache / "teachers/teacher/order/c/0/0"
    table.write_bytes(flipped(random.Random(0), table.read_bytes()))
    (found,) = look(cache, repair=True).findings
    assert "Blocks that depend on it: 6." in found.problem
    assert not table.exists()
    assert Cache.open(cache).names() == ["other", "teacher"]
    for view in range(VIEWS):
        shutil.rmtree(cache / f"teachers/teacher/records/{view}")
    table.write_bytes(b"?")
    (found,) = look(cache, repair=True).findings
    assert "Blocks that depend on it: 0." in found.problem
    assert Cache.open(cache).names() == ["other"], "an entry without blocks is nothing to be kept"
    another = replace(TOPK, order=random_order(CLASSES, seed=5))
    fill(open_entry(cache, another), VIEWS)
    assert look(cache).whole


def test_without_its_table_a_teachers_bytes_are_looked_at_all_the_same(cache: Path) -> None:
    """So that one dump mends all: the table, and the blocks that went with it."""
    before = tree(cache)
    keys = ("level/c/1/2", "records/0/1.json", "records/zarr.json", "order/zarr.json", "order/c/0/0")
    damaged = [cache / "teachers/teacher" / key for key in keys]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-3] + b"?" + path.read_bytes()[-2:])
    report = look(cache, repair=True)
    assert (report.blocks, report.dropped, len(report.findings)) == (13, 2, 5)
    assert {(found.view, found.block) for found in report.findings} == {(None, None), (0, 1), (1, 2)}
    assert all(any(str(path) in found.problem for found in report.findings) for path in damaged)
    assert report.repairs is not None
    assert len(report.repairs.rewritten) == 2
    fill(open_entry(cache), VIEWS)
    assert tree(cache) == before


def full_of_errors(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(b"?")


def test_a_repair_that_cannot_be_made_is_told_and_no_finding_is_lost(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system; and one that fails for one file alone."""
    record, other = (cache / f"teachers/teacher/records/0/{block}.json" for block in (1, 2))
    full_of_errors(record, other, cache / "teachers/zarr.json")
    before = tree(cache)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("create", "make_folder", "remove", "remove_folder"):
        monkeypatch.setattr(Disk, name, refuse)
    report = look(cache, repair=True)
    assert [(found.view, found.block) for found in report.findings] == [(None, None), (0, 1), (0, 2)]
    assert report.repairs is not None
    assert (len(report.repairs.failed), report.dropped) == (3, 0)
    lines = report.lines()
    at = lines.index("NOT repaired: 3 problems, and as bad as before.")
    assert [str(path) in line for path, line in zip((cache / "teachers/zarr.json", record, other), lines[at + 1 : -1],
                                                    strict=True)] == [True] * 3  # fmt: skip
    assert all("Read-only file system" in line for line in lines[at + 1 : -1])
    monkeypatch.undo()
    assert tree(cache) == before

    remove = Disk.remove

    def fail(self: Disk, path: Path) -> None:
        if path == record:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        remove(self, path)

    monkeypatch.setattr(Disk, "remove", fail)
    report = look(cache, repair=True)
    assert report.repairs is not None
    assert (report.dropped, len(report.repairs.rewritten), len(report.repairs.failed)) == (1, 1, 1)
    assert json.loads(json.dumps(report.to_json()))["repairs"]["dropped"] == ["teachers/teacher/records/0/2.json"]


@pytest.mark.parametrize("key", ["zarr.json", "teachers/teacher/zarr.json"])
def test_the_altered_byte_of_an_identity_is_found(made: Path, key: str) -> None:
    data = (made / key).read_bytes()
    rng = random.Random(4)
    assert mended_identity(data) == data
    assert mended_identity(data.replace(b'"group"', b'"array"')) == data, "not the identity, so that it follows from it"
    value = b"samples" if key == "zarr.json" else b"resnet18"
    for place in (data.index(b'"check"') + 12, data.index(b'"kdcache"') + 3, data.index(value) + 2):
        altered = data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]
        assert mended_identity(altered) == data
    two = bytearray(data)
    for place in (data.index(b'"check"') + 12, data.index(b'"check"') + 13):
        two[place] = ord("g")
    assert mended_identity(bytes(two)) is None
    assert mended_identity(b"[" * 2**20) is None


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
