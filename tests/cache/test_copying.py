"""Copies of caches: the same bytes, checked on the way, whole or in part, and resumed."""

import shlex
import shutil
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kdcache.cache.claims import GLANCE, block_claim, open_claims
from kdcache.cache.copying import copy_block
from kdcache.cache.durable import LocalFiles
from kdcache.cache.entry import Entry
from kdcache.cache.identity import windows_checksum
from kdcache.cache.record import BlockRecord
from kdcache.cache.store import Cache
from kdcache.errors import CacheError, CorruptError, IdentityError, RecordedError, SourceError, UsageError
from kdcache.inspection.copy import CopyOptions, CopyReport, copy_cache, parse_views
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.loader.cached_teachers import open_cached_teachers
from kdcache.targets.full import FullCodec
from kdcache_cli.main import app
from support.small_cache import (
    CLASSES,
    FULL,
    TOPK,
    VIEW_SET,
    WINDOWS,
    fill,
    identity_of,
    kept,
    open_entry,
    small_chunks,
    tree,
)
from support.small_job import Heard
from support.targets_contract import random_order


@pytest.fixture(scope="module", autouse=True)
def several_in_a_file() -> Iterator[None]:
    """Of the second teacher, a file has two chunks."""
    with small_chunks():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, three views."""
    path = tmp_path_factory.mktemp("source") / "cache"
    fill(open_entry(path, TOPK), 3)
    fill(open_entry(path, FULL, name="other"), 3)
    return path


def copy(source: Path, target: Path, views: str | None = None, *teachers: str) -> CopyReport:
    return copy_cache(CopyOptions(str(source), str(target), views, teachers))


def test_a_whole_copy_has_the_same_bytes(source: Path, tmp_path: Path) -> None:
    report = copy(source, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)
    assert (report.copied, report.blocks, report.teachers) == (18, 18, ("other", "teacher"))
    assert copy(source, tmp_path / "copy").copied == 0
    assert tree(tmp_path / "copy") == tree(source)


def test_a_part_is_what_would_have_been_dumped(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "copy", ":2", "teacher")
    fill(open_entry(tmp_path / "dumped"), 2)
    assert tree(tmp_path / "copy") == tree(tmp_path / "dumped")
    assert verify(VerifyOptions(str(tmp_path / "copy"))).whole
    # The rest can be added later.
    copy(source, tmp_path / "copy", "2", "teacher")
    copy(source, tmp_path / "copy", None, "other")
    assert tree(tmp_path / "copy") == tree(source)


@pytest.mark.parametrize("harm", ["altered", "unreadable"])
def test_a_damaged_block_is_named_and_all_others_are_copied(
    source: Path, tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    chunk = damaged / "teachers/teacher/level/c/1/2"
    data, read = chunk.read_bytes(), LocalFiles.get_part

    def fail(self: LocalFiles, key: str, start: int, length: int) -> bytes | None:
        if self.root / key == chunk:
            raise CacheError(f"Cannot read {chunk}: Input/output error.")
        return read(self, key, start, length)

    if harm == "altered":
        chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        monkeypatch.setattr(LocalFiles, "get_part", fail)
    report = copy(damaged, tmp_path / "copy", None, "teacher")
    (problem,) = report.problems
    assert str(chunk) in problem
    assert (report.copied, report.blocks) == (8, 9)
    assert "NOT copied: 1 block." in report.lines()[-1]
    assert Cache.open(tmp_path / "copy").entry("teacher").listed(1) == {0, 1}
    monkeypatch.undo()
    chunk.write_bytes(data)
    assert copy(damaged, tmp_path / "copy").copied == 18 - 8
    assert tree(tmp_path / "copy") == tree(source)


def test_a_record_of_another_block_is_not_copied(source: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    records = damaged / "teachers/teacher/records/0"
    one, other = (BlockRecord.from_bytes((records / f"{block}.json").read_bytes(), "") for block in (0, 1))
    more = replace(one, chunks={**one.chunks, **other.chunks})  # all that it says is true
    (records / "0.json").write_bytes(more.to_bytes())
    report = copy(damaged, tmp_path / "copy", None, "teacher")
    (problem,) = report.problems
    assert f"({records / '0.json'}) is another block's" in problem
    assert report.copied == 8
    assert verify(VerifyOptions(str(tmp_path / "copy"))).whole


def test_a_source_that_is_gone_is_not_asked_for_every_block(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.inspection.copy.MAX_UNREADABLE", 3)
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    for record in damaged.glob("teachers/*/records/1/*.json"):
        record.write_bytes(b"?")
    with pytest.raises(SourceError, match="3 blocks in a row cannot be copied"):
        copy(damaged, tmp_path / "copy")


def test_the_command_exits_with_3_where_a_block_was_left_out(source: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    assert CliRunner().invoke(app, ["cache", "copy", str(damaged), str(tmp_path / "whole")]).exit_code == 0
    (damaged / "teachers/teacher/records/0/1.json").write_bytes(b"?")
    ended = CliRunner().invoke(app, ["cache", "copy", str(damaged), str(tmp_path / "copy")])
    assert ended.exit_code == 3
    assert "holds 17 of 18 blocks of other, teacher" in ended.output


HARMS = {
    "identity": lambda entry: (entry / "zarr.json").write_bytes(b"?"),
    "table": lambda entry: (entry / "order/c/0/0").unlink(),
    "records": lambda entry: (shutil.rmtree(entry / "records/1"), (entry / "records/1").write_bytes(b"")),
}


@pytest.mark.parametrize("harm", HARMS)
def test_one_damaged_teacher_keeps_nobody_from_the_others(source: Path, tmp_path: Path, harm: str) -> None:
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    HARMS[harm](damaged / "teachers/teacher")
    ended = CliRunner().invoke(app, ["cache", "copy", str(damaged), str(tmp_path / "all")])
    assert ended.exit_code == 3
    assert "Teacher 'teacher' is left out: " in ended.output
    assert "NOT copied: the teacher teacher." in ended.output
    assert copy(damaged, tmp_path / "one", None, "other").whole
    assert tree(tmp_path / "all") == tree(tmp_path / "one")
    assert Cache.open(tmp_path / "all").names() == ["other"]
    with pytest.raises(CacheError, match="teachers/teacher/"):
        copy(damaged, tmp_path / "two", None, "other", "teacher")
    cache = Cache.open(damaged)
    assert open_cached_teachers(cache, "other", None).name == "other"
    with pytest.raises(UsageError, match="holds other, teacher: choose one"):
        open_cached_teachers(cache, None, None)
    shutil.rmtree(damaged / "teachers/other")
    with pytest.raises(CacheError, match="teachers/teacher/"):
        copy(damaged, tmp_path / "three")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("views", "there", "serves", "missing"),
    [
        ("1:3", "views 1-2", "none of its views", "view 0 is"),
        (":2", None, "", ""),
        (None, None, "", ""),
        ("2", "view 2", "none of its views", "view 0 is"),
    ],
)
def test_what_a_part_can_be_used_for_is_said_before_it_is_copied(
    source: Path, tmp_path: Path, views: str | None, there: str | None, serves: str, missing: str
) -> None:
    heard = Heard()
    copy_cache(CopyOptions(str(source), str(tmp_path / "copy"), views, ("teacher",)), heard)
    if there is None:
        assert heard.warned == []
        return
    (warning,) = heard.warned
    assert f"will hold {there} of teacher" in warning
    assert f"so it takes {serves} until {missing} copied, too" in warning
    command = shlex.split(warning.split("`")[1])[1:]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert Cache.open(tmp_path / "copy").entry("teacher").complete_views() > 0


def test_a_part_behind_a_gap_is_told_of(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "copy", ":1", "teacher")
    heard = Heard()
    copy_cache(CopyOptions(str(source), str(tmp_path / "copy"), "2", ("teacher",)), heard)
    assert "so it takes view 0 only until view 1 is copied, too" in heard.warned[0]


def test_what_a_killed_copy_left_is_completed(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "copy")
    for key in ("teachers/teacher/records/0/1.json", "teachers/other/records/2/0.json"):
        (tmp_path / "copy" / key).unlink()
    (tmp_path / "copy/teachers/teacher/tail/c/0/1").write_bytes(b"half")
    (tmp_path / "copy/teachers/teacher/tail/c/1/1").unlink()  # recorded, and yet not there
    assert copy(source, tmp_path / "copy").copied == 3
    assert tree(tmp_path / "copy") == tree(source)


@pytest.mark.parametrize("teacher", ["teacher", "other"])
@pytest.mark.parametrize("altered", [0, -1])
def test_a_target_that_writes_other_bytes_is_found(
    source: Path, tmp_path: Path, teacher: str, altered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalFiles.put

    def put_altered(self: LocalFiles, key: str, *parts: bytes) -> None:
        changed = list(parts)
        if not any(part in key for part in ("zarr.json", "windows", "order")):
            changed[altered] = parts[altered][:-1] + b"?"
        put(self, key, *changed)

    monkeypatch.setattr(LocalFiles, "put", put_altered)
    with pytest.raises(CorruptError, match="read back with other bytes"):
        copy(source, tmp_path / "copy", None, teacher)
    assert not list((tmp_path / "copy").glob("teachers/*/records/*/*.json"))


def test_other_targets_under_the_same_name_are_left_alone(source: Path, tmp_path: Path) -> None:
    fill(open_entry(tmp_path / "copy", weights="other"), 1)
    before = tree(tmp_path / "copy")
    with pytest.raises(IdentityError, match="weights"):
        copy(source, tmp_path / "copy", None, "teacher")
    assert tree(tmp_path / "copy") == before
    open_entry(tmp_path / "shorter", samples=6)
    with pytest.raises(IdentityError, match="samples"):
        copy(source, tmp_path / "shorter")


def test_targets_are_not_put_beside_another_order_of_classes(source: Path, tmp_path: Path) -> None:
    """Class names of one order, read by another, would be other classes, and every checksum would fit."""
    fill(open_entry(tmp_path / "copy", replace(TOPK, order=random_order(CLASSES, seed=1))), 1)
    before = tree(tmp_path / "copy")
    with pytest.raises(IdentityError) as caught:
        copy(source, tmp_path / "copy", "1", "teacher")
    assert caught.value.field == "targets.order"
    assert tree(tmp_path / "copy") == before


def test_a_table_that_no_entry_names_is_written_over(source: Path, tmp_path: Path) -> None:
    """Of a dump that was killed before its entry came to be."""
    fill(open_entry(tmp_path / "copy", replace(TOPK, order=random_order(CLASSES, seed=1))), 1)
    for path in (tmp_path / "copy/teachers/teacher").iterdir():
        if path.name != "order":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    copy(source, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)


def test_a_table_alone_that_is_the_same_is_completed(source: Path, tmp_path: Path) -> None:
    table = tmp_path / "copy/teachers/teacher/order/c/0/0"
    copy(source, tmp_path / "copy", None, "other")
    table.parent.mkdir(parents=True)
    table.write_bytes((source / table.relative_to(tmp_path / "copy")).read_bytes())
    copy(source, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)


def other_block(entry: Entry, view: int, block: int) -> None:
    """Record a block with targets that are not the source's."""
    start, stop = entry.layout.block_range(block)
    entry.write_block(view, block, kept(TOPK, view + 7, start, stop), {"by": "another process"})


def test_a_block_that_is_recorded_meanwhile_is_left_alone(source: Path, tmp_path: Path) -> None:
    there, entry = open_entry(tmp_path), Cache.open(source).entry("teacher")
    other_block(there, 0, 1)
    before = tree(tmp_path)
    assert copy_block(entry, there, 0, 1) is None
    assert tree(tmp_path) == before
    assert copy_block(entry, there, 0, 0)


@pytest.mark.parametrize("moment", ["first", "last"])
def test_a_block_that_another_writes_at_the_same_time_is_one_or_the_other_or_not_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The other is done within the copy of this block: before the copy's second chunk, or before its record."""
    there, entry = open_entry(tmp_path), Cache.open(source).entry("teacher")
    begun = there.open_block(0, 1)
    begun.append(kept(TOPK, 7, 4, 8))
    name = "put" if moment == "first" else "flush"
    real = getattr(LocalFiles, name)

    def late(self: LocalFiles, *arguments: Any) -> None:
        real(self, *arguments)
        monkeypatch.undo()
        begun.finish({"by": "another process"})

    monkeypatch.setattr(LocalFiles, name, late)
    with pytest.raises(RecordedError, match="other bytes"):
        copy_block(entry, there, 0, 1)
    assert there.listed(0) == set()
    assert copy_block(entry, there, 0, 1)
    there.read_block(0, 1)


def test_a_block_that_another_is_at_is_waited_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump into the target has claimed it, and records it while the copy waits."""
    there = open_entry(tmp_path)
    claims = open_claims(LocalFiles(tmp_path))
    assert claims.take(block_claim("teacher", 0, 1))

    def done(seconds: float) -> None:
        if seconds <= GLANCE:  # a lock is tried again
            return
        assert there.listed(0) == {0, 2}
        other_block(there, 0, 1)
        claims.close()

    monkeypatch.setattr("kdcache.inspection.copy.time.sleep", done)
    assert copy(source, tmp_path, "0", "teacher").copied == 2
    assert there.record(0, 1).provenance == {"by": "another process"}
    assert verify(VerifyOptions(str(tmp_path))).whole


def test_a_copy_holds_one_file(tmp_path: Path) -> None:
    """They may be two gigabytes."""
    codec, rows = FullCodec(2**15), 16
    view_set = replace(VIEW_SET, samples=2 * rows, windows=windows_checksum(WINDOWS[:1].repeat(2 * rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FullCodec, "chunk_rows", lambda self, block_rows: 1)
        patch.setattr(FullCodec, "file_rows", lambda self, block_rows: block_rows // 2)
        there = []
        for name in ("source", "target"):
            cache = Cache.create(tmp_path / name, replace(view_set, block_rows=rows), WINDOWS[:1].repeat(2 * rows))
            there.append(cache.add_teacher(identity_of(codec), codec))
        said = torch.log_softmax(torch.randn(rows, codec.num_classes), 1)
        there[0].write_block(0, 0, codec.select(said, torch.full((rows, 2), -1)), {})
        file = (tmp_path / "source" / there[0].block_files(0, 0)[0].key).stat().st_size
        del said
        tracemalloc.start()
        try:
            assert copy_block(*there, 0, 0)
            assert 0.9 * file < tracemalloc.get_traced_memory()[1] < 1.5 * file
        finally:
            tracemalloc.stop()


def test_views_are_ranges() -> None:
    assert parse_views("0:50") == range(50)
    assert parse_views(":2") == range(2)
    assert parse_views("7") == range(7, 8)
    assert 10**4 in parse_views("3:")
    assert 0 in parse_views(None)
    for text in ("a", "5:2", "2:2", "1:2:3", "-1:2", ""):
        with pytest.raises(UsageError, match=r"--views '.*' is (no range|empty)"):
            parse_views(text)


def test_teachers_that_are_not_there_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it holds other, teacher"):
        copy(source, tmp_path / "copy", None, "teacher", "third")
    assert not (tmp_path / "copy").exists()


def test_a_table_that_another_process_put_over_is_put_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump that had looked for an entry before there was one, slept, and woke when the last block was copied."""
    put_if_absent, table = LocalFiles.put_if_absent, tmp_path / "copy/teachers/teacher/order/c/0/0"

    def put_record(self: LocalFiles, key: str, data: bytes) -> bool:
        made = put_if_absent(self, key, data)
        if key == "teachers/teacher/records/2/2.json":
            table.write_bytes(b"another")
        return made

    monkeypatch.setattr(LocalFiles, "put_if_absent", put_record)
    copy(source, tmp_path / "copy", None, "teacher")
    assert table.read_bytes() == (source / "teachers/teacher/order/c/0/0").read_bytes()
    assert Cache.open(tmp_path / "copy").entry("teacher").complete_views() == 3
