"""What repair and the same dump make of a damaged cache: what it was, byte for byte, as far as anything tells."""

import errno
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.cache.repair import repaired_identity
from kdcache.cache.store import Cache
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.io.disk import Disk
from kdcache.io.folders import Location
from support.damage import VIEWS, flipped, look, one_of_each_kind
from support.small_cache import CLASSES, FULL, TOPK, VIEW_SET, WINDOWS, fill, open_entry, tree
from support.targets_contract import random_order


def test_what_repair_dropped_is_told_as_missing_from_then_on(cache: Path) -> None:
    (cache / "teachers/teacher/level/c/0/0").write_bytes(b"?")
    lacks = "teacher lacks block 0 of view 0: until the same dump-logits has made it, trainings take none of its views"
    assert not any(lacks in line for line in look(cache).lines())  # a record is there, and it is damaged
    repaired, after = look(cache, repair=True), look(cache)
    assert not repaired.whole
    assert after.whole
    for report in (repaired, after):
        assert f"{lacks}, of 1 view that is whole." in report.lines()


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


def dump_again(path: Path) -> None:
    """What the same dumps do: they know the windows, the teachers, their tables and their targets."""
    Cache.ensure(path, VIEW_SET, WINDOWS)
    fill(open_entry(path, TOPK), 1)
    fill(open_entry(path, FULL, name="other"), 1)


def test_any_flipped_byte_is_put_right_by_repair_and_the_same_dump(tmp_path: Path) -> None:
    rng = random.Random(3)
    open_entry(tmp_path)
    dump_again(tmp_path)
    before = tree(tmp_path)
    for path in one_of_each_kind(tmp_path):
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
    assert "Cannot be repaired with --repair: 1 problem; each names its remedy." in report.lines()


def test_a_copy_of_a_part_has_the_identities(cache: Path, tmp_path: Path) -> None:
    """As the sentence about lost ones says."""
    copy_cache(CopyOptions(str(cache), str(tmp_path / "part"), "1", ("teacher",)))
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
    assert [str(path) in line for path, line in zip((cache / "teachers/zarr.json", record, other), lines[at + 1 : -2],
                                                    strict=True)] == [True] * 3  # fmt: skip
    assert all("Read-only file system" in line for line in lines[at + 1 : -2])
    monkeypatch.undo()
    assert tree(cache) == before

    remove = Disk.remove

    def fail(self: Disk, place: Location) -> None:
        if place.path == record:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        remove(self, place)

    monkeypatch.setattr(Disk, "remove", fail)
    report = look(cache, repair=True)
    assert report.repairs is not None
    assert (report.dropped, len(report.repairs.rewritten), len(report.repairs.failed)) == (1, 1, 1)
    assert json.loads(json.dumps(report.to_json()))["repairs"]["dropped"] == ["teachers/teacher/records/0/2.json"]


@pytest.mark.parametrize("key", ["zarr.json", "teachers/teacher/zarr.json"])
def test_the_altered_byte_of_an_identity_is_found(made: Path, key: str) -> None:
    data = (made / key).read_bytes()
    rng = random.Random(4)
    assert repaired_identity(data) == data
    assert repaired_identity(data.replace(b'"group"', b'"array"')) == data, (
        "not the identity, so that it follows from it"
    )
    # Each search goes through every byte that may have been another one, which takes a second.
    for place in [data.index(b'"check"') + 12] if key == "zarr.json" else [data.index(b"resnet18") + 2]:
        altered = data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]
        assert repaired_identity(altered) == data
    two = bytearray(data)
    for place in (data.index(b'"check"') + 12, data.index(b'"check"') + 13):
        two[place] = ord("g")
    assert repaired_identity(bytes(two)) is None
    assert repaired_identity(b"[" * 2**20) is None
