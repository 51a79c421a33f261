"""A cache of format 3, as the version before this one wrote it, is read, verified, grown, and copied into format 4."""

import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kdcache.cache.identity import FORMAT
from kdcache.cache.record import BlockRecord
from kdcache.cache.store import Cache
from kdcache.errors import CorruptError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.targets.topk import TopKTargets
from kdcache_cli.main import app
from support.damage import look
from support.small_cache import SAMPLES, VIEW_SET, WINDOWS, fill, open_entry, small_chunks, tree
from support.small_job import Heard

#: Made with `fill` of `support.small_cache` at the last commit of format 3: top-k, full and embedding.
GOLDEN = Path(__file__).parents[1] / "golden/format-3.tar.xz"


@pytest.fixture(scope="module", autouse=True)
def several_in_a_file() -> Iterator[None]:
    """Of the second teacher, a file has two chunks."""
    with small_chunks():
        yield


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The cache, unpacked."""
    with tarfile.open(GOLDEN) as packed:
        packed.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def records(path: Path) -> dict[str, BlockRecord]:
    found = sorted(path.glob("teachers/*/records/*/*.json"))
    return {str(file.relative_to(path)): BlockRecord.from_bytes(file.read_bytes(), str(file)) for file in found}


def test_it_is_read_and_verified_with_a_warning_that_it_proves_less(old: Path) -> None:
    before = tree(old)
    report, told = look(old), inspect(InspectOptions(str(old)))
    shown = CliRunner().invoke(app, ["verify", str(old)])
    assert report.whole
    assert (report.blocks, report.targets) == (18, 6 * SAMPLES)
    assert report.format_warning is not None
    assert f"The cache {old} has format 3, whose records do not say which block they are of" in report.format_warning
    assert f"`kdcache cache copy` makes a cache of format {FORMAT}" in report.format_warning
    assert report.format_warning in report.lines()[:-1]
    assert report.lines()[-1].startswith(f"{old} is whole: ")
    assert shown.exit_code == 0
    assert told.format_warning == report.format_warning
    assert any(report.format_warning in line for line in told.lines())
    assert tree(old) == before


def test_it_grows_in_its_own_format(old: Path) -> None:
    before = tree(old)
    Cache.ensure(old, VIEW_SET, WINDOWS)
    fill(open_entry(old), 3)
    after = tree(old)
    assert {key: after[key] for key in before} == before
    assert len(after) > len(before)
    assert len(records(old)) == 18 + 3
    assert all(record.block_id is None for record in records(old).values())
    assert look(old).whole


def test_a_copy_has_the_format_of_today_and_the_same_targets(old: Path, tmp_path: Path) -> None:
    heard = Heard()
    copy_cache(CopyOptions(str(old), str(tmp_path / "new")), heard)
    assert heard.warned == [f"{Cache.open(old).format_warning} Blocks exchanged before are copied undetected."]
    report = look(tmp_path / "new")
    assert report.whole
    assert report.format_warning is None
    one, other = tree(old), tree(tmp_path / "new")
    assert one.keys() == other.keys()
    assert {key for key in one if one[key] != other[key]} == {"zarr.json", *records(old)}
    entry = Cache.open(tmp_path / "new").entry("teacher")
    for key, record in records(tmp_path / "new").items():
        assert replace(record, block_id=None) == records(old)[key]
    assert records(tmp_path / "new")["teachers/teacher/records/1/2.json"].block_id == entry.block_id(1, 2)
    for view in range(2):
        ours, theirs = (
            TopKTargets.concat([read.read_block(view, block) for block in range(3)])  # type: ignore[list-item]
            for read in (entry, Cache.open(old).entry("teacher"))
        )
        for field in ("class_id", "prob", "tail"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field))


def test_a_copy_into_it_keeps_its_format(old: Path, tmp_path: Path) -> None:
    """So that a cache never has records of both kinds; and a record that says the right thing is accepted."""
    fill(open_entry(tmp_path / "new"), 3)
    copy_cache(CopyOptions(str(tmp_path / "new"), str(old), "2", ("teacher",)))
    assert len(records(old)) == 18 + 3
    assert all(record.block_id is None for record in records(old).values())
    assert look(old).whole
    key = "teachers/teacher/records/2/0.json"
    (old / key).write_bytes((tmp_path / "new" / key).read_bytes())
    assert look(old).whole
    (old / key).write_bytes((tmp_path / "new/teachers/teacher/records/1/0.json").read_bytes())
    (finding,) = look(old).findings
    assert "is that of view 1, block 0:" in finding.problem


def test_its_records_prove_nothing_in_a_cache_of_today(old: Path, tmp_path: Path) -> None:
    path = tmp_path / "new"
    fill(open_entry(path), 2)
    before = tree(path)
    key = "teachers/teacher/records/1/0.json"
    (path / key).write_bytes((old / key).read_bytes())
    report = look(path, repair=True)
    assert "does not say which block it is of, as in caches of format 3" in report.findings[0].problem
    assert report.dropped == 1
    assert open_entry(path).recorded(1) == {1, 2}
    fill(open_entry(path), 2)
    assert tree(path) == before
    for key in records(old):
        if "teacher/" in key.removeprefix("teachers/"):
            (path / key).write_bytes((old / key).read_bytes())
    with pytest.raises(CorruptError, match=r"None of the records of teacher 'teacher' is its own.*zarr\.json was repl"):
        Cache.open(path).entry("teacher")
