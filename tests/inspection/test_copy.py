"""What `cache copy` says of views that are not there, and of what it did."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdcache.cache.store import Cache
from kdcache.errors import UsageError
from kdcache.inspection.copy import CopyOptions, CopyReport, copy_cache
from kdcache_cli.main import app
from support.small_cache import FULL, fill, open_entry
from support.small_job import Heard


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers of three blocks a view; one has two views, the other one."""
    path = tmp_path_factory.mktemp("source") / "cache"
    fill(open_entry(path), 2)
    fill(open_entry(path, FULL, name="other"), 1)
    return path


def copy(source: Path, target: Path, views: str | None, heard: Heard, *teachers: str) -> CopyReport:
    return copy_cache(CopyOptions(str(source), str(target), views, teachers), heard)


@pytest.mark.parametrize("views", ["2:4", "2", "2:"])
def test_views_of_which_none_is_there_are_refused_and_nothing_is_made(source: Path, tmp_path: Path, views: str) -> None:
    target = tmp_path / "copy"
    with pytest.raises(UsageError, match=rf"other has view 0, and none of {views}; teacher has views 0-1, and none of"):
        copy(source, target, views, Heard())
    assert not target.exists()
    assert CliRunner().invoke(app, ["cache", "copy", str(source), str(target), "--views", views]).exit_code == 2


def test_a_view_of_which_every_block_was_dropped_is_not_there(source: Path, tmp_path: Path) -> None:
    dropped = shutil.copytree(source, tmp_path / "dropped")
    for record in dropped.glob("teachers/teacher/records/1/*"):
        record.unlink()
    with pytest.raises(UsageError, match="teacher has view 0, and none of 1"):
        copy(dropped, tmp_path / "copy", "1", Heard())


def test_of_views_of_which_some_are_there_the_others_are_told(source: Path, tmp_path: Path) -> None:
    heard = Heard()
    assert copy(source, tmp_path / "copy", "0:3", heard).copied == 9
    (warning,) = heard.warned
    assert "other has view 0, and not views 1-2; teacher has views 0-1, and not view 2." in warning
    heard = Heard()
    assert copy(source, tmp_path / "rest", "0:", heard).copied == 9
    assert heard.warned == [], "whatever there is"


def test_a_teacher_of_whom_nothing_is_wanted_gets_no_empty_entry(source: Path, tmp_path: Path) -> None:
    heard = Heard()
    report = copy(source, tmp_path / "copy", "1", heard)
    assert report.teachers == ("teacher",)
    assert Cache.open(tmp_path / "copy").names() == ["teacher"]
    assert any("other has view 0, and none of 1" in warning for warning in heard.warned)


def test_a_view_that_the_source_lacks_too_is_not_asked_of_it(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "part", "1", Heard(), "teacher")
    copy(tmp_path / "part", tmp_path / "copy", "1", heard := Heard())
    (warning,) = heard.warned
    assert f"until view 0 is copied, too: {tmp_path / 'part'} does not have all of them" in warning


def test_the_report_counts_what_was_asked_for_and_says_so(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    copy(source, target, "0", Heard(), "teacher")
    (line,) = copy(source, target, "1", Heard(), "teacher").lines()
    assert line.startswith(f"{target} holds 3 of 3 blocks of teacher requested and found in {source}: 3 copied now")
    assert line.endswith(", 0 copied before.")
    (line,) = copy(source, target, None, Heard(), "teacher").lines()
    assert "6 of 6 blocks" in line
    assert "0 copied now and checked (0 bytes), 6 copied before." in line


def test_help_knows_every_way_to_name_views() -> None:
    text = CliRunner().invoke(app, ["cache", "copy", "--help"], terminal_width=300, env={"COLUMNS": "300"}).output
    assert "or view A alone" in text
