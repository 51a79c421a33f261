"""Links and special files in a cache: nothing outside is written or removed, and nothing is read without end."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.cache.durable import PARTIAL, LocalFiles
from kdcache.cache.store import Cache
from kdcache.errors import CacheError, CorruptError, UnreadableError
from kdcache.inspection.copy import CopyOptions, copy_cache
from support.damage import look
from support.links import Foreign
from support.small_cache import fill, open_entry, tree

RECORDS = "teachers/teacher/records"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "cache"
    fill(open_entry(path))
    return path


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cache"))


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    return Foreign(tmp_path / "foreign")


def put_link(place: Path, target: Path) -> None:
    """A link in the place of a folder, to another one with the same files."""
    if place.exists():
        shutil.copytree(place, target, dirs_exist_ok=True)
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def test_foreign_files_behind_a_link_to_a_folder_of_partial_files_stay(cache: Path, foreign: Foreign) -> None:
    (cache / PARTIAL).symlink_to(foreign.path)
    files = LocalFiles(cache)
    for ask in (
        files.prepare,
        files.tidy,
        lambda: files.put("a", b"x"),
        lambda: files.put_if_absent("a", b"x"),
        lambda: Cache.open(cache, read_only=False),
    ):
        with pytest.raises(CacheError, match=r"/\.partial is a symbolic link, .* put a folder .* in the link's place"):
            ask()
    cache_there = Cache.open(cache)
    with (
        cache_there.claims() as claims,
        pytest.raises(CacheError, match=r"Cannot write .*claim-a: .*/\.partial is a symbolic link"),
    ):
        claims.take("a")
    foreign.assert_untouched()


def test_only_files_of_our_own_naming_leave_the_folder_of_partial_files(cache: Path, foreign: Foreign) -> None:
    folder = cache / PARTIAL
    folder.mkdir()
    ours = ["0" * 32, "placing", "claim-teacher-0-1", "clock-" + "1" * 32, "doctor-" + "2" * 32]
    for name in [*ours, "notes.txt", "0" * 31, "F" * 32]:
        (folder / name).write_text(name)
    (folder / ("3" * 32)).mkdir()
    (folder / ("4" * 32)).symlink_to(foreign.path / "precious.txt")
    os.mkfifo(folder / ("5" * 32))
    LocalFiles(cache).tidy()
    assert sorted(os.listdir(folder)) == sorted(["notes.txt", "0" * 31, "F" * 32, "3" * 32, "4" * 32, "5" * 32])
    foreign.assert_untouched()


@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_claim_is_not_written_over_a_foreign_file(
    cache: Path, foreign: Foreign, make: Callable[[Path, Path], None]
) -> None:
    (cache / PARTIAL).mkdir()
    make(foreign.path / "precious.txt", cache / PARTIAL / "claim-a")
    with (
        Cache.open(cache).claims() as claims,
        pytest.raises(CacheError, match=r"claim-a is a .* link.*, which kdcache does not follow"),
    ):
        claims.take("a")
    foreign.assert_untouched()


def test_a_repair_removes_nothing_through_a_link(cache: Path, tmp_path: Path) -> None:
    """The records of a view lie elsewhere, one of them damaged: that is told, and stays."""
    elsewhere = tmp_path / "elsewhere"
    put_link(cache / RECORDS / "0", elsewhere)
    (elsewhere / "1.json").write_bytes(b"?")
    before = tree(elsewhere)
    report = look(cache, repair=True)
    assert [(found.view, found.block) for found in report.findings] == [(0, 1)]
    assert report.repairs is not None
    (failed,) = report.repairs.failed
    assert f"{cache / RECORDS / '0'} is a symbolic link" in failed
    assert tree(elsewhere) == before


@pytest.mark.parametrize("place", ["teachers", "teachers/teacher", "windows", "teachers/teacher/prob"])
def test_a_repair_writes_nothing_through_a_link(cache: Path, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    arrays = [path.name for path in (cache / "teachers/teacher").iterdir() if (path / "c").is_dir()]
    place = place.replace("prob", arrays[0])
    put_link(cache / place, elsewhere)
    lost = [path for path in sorted(elsewhere.rglob("zarr.json")) if path != elsewhere / "teacher/zarr.json"]
    lost = [path for path in lost if (place, path.parent) != ("teachers/teacher", elsewhere)]
    assert lost
    for path in lost:
        path.unlink()
    before = tree(elsewhere)
    report = look(cache, repair=True)
    assert report.repairs is not None
    assert len(report.repairs.failed) == len(report.findings) == len(lost)
    assert all(f"{cache / place} is a symbolic link" in failed for failed in report.repairs.failed)
    assert tree(elsewhere) == before


def test_a_dump_writes_nothing_through_a_link(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    put_link(cache / RECORDS / "1", elsewhere)
    (elsewhere / "1.json").unlink()
    before = tree(elsewhere)
    with pytest.raises(CacheError, match=r"records/1 is a symbolic link"):
        fill(open_entry(cache))
    assert tree(elsewhere) == before


def test_a_copy_writes_nothing_through_a_link(made: Path, tmp_path: Path, foreign: Foreign) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/windows").symlink_to(foreign.path)
    with pytest.raises(CacheError, match="windows is a symbolic link"):
        copy_cache(CopyOptions(str(made), str(tmp_path / "target")))
    foreign.assert_untouched()


def test_the_cache_itself_may_be_a_link(tmp_path: Path, made: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    fill(open_entry(tmp_path / "cache"))
    assert tree(tmp_path / "disk") == tree(made)
    (tmp_path / "lost").symlink_to(tmp_path / "nothing")
    with pytest.raises(CacheError, match="lost is a symbolic link that leads to nothing"):
        open_entry(tmp_path / "lost")


def test_a_cache_whose_files_are_links_to_blobs_is_read(cache: Path, tmp_path: Path) -> None:
    """As the Hugging Face hub keeps what it downloads."""
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate([path for path in cache.rglob("*") if path.is_file()]):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(tmp_path / "blobs" / str(number))
    assert not look(cache).findings
    Cache.open(cache).entry("teacher").read_block(0, 1)


def replace_by(kind: str) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "endless":
            path.symlink_to("/dev/zero")
        elif kind == "full":
            with path.open("wb") as file:
                file.truncate(2**40)  # a file of holes, which takes no room
        else:
            path.symlink_to(path.name)

    return replace


WORDS = {
    "fifo": "it is a FIFO and not a regular file",
    "endless": "it is a device and not a regular file",
    "full": "more than 512 MiB",
    "circle": "Too many levels of symbolic links",
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("key", ["zarr.json", "windows/c/0", "teachers/teacher/zarr.json", f"{RECORDS}/0/1.json"])
def test_what_is_no_regular_file_of_a_bounded_size_is_refused_at_once(cache: Path, kind: str, key: str) -> None:
    replace_by(kind)(cache / key)
    with pytest.raises(CacheError, match=WORDS[kind]):
        LocalFiles(cache).get(key)
    if (key, kind) == ("zarr.json", "circle"):  # it cannot be told whether there is a cache at all
        with pytest.raises(UnreadableError, match=WORDS[kind]):
            look(cache)
        return
    report = look(cache)
    assert any(WORDS[kind] in str(finding) for finding in report.findings)


@pytest.mark.parametrize("kind", WORDS)
def test_a_block_with_such_a_file_is_dropped_and_made_anew(cache: Path, made: Path, kind: str) -> None:
    """Its record, and then a file of its targets: the file itself goes, or gives way, not what a link leads to."""
    whole = tree(made)
    for path in (cache / RECORDS / "0/1.json", next((cache / "teachers/teacher").glob("*/c/0/*"))):
        replace_by(kind)(path)
        report = look(cache, repair=True)
        assert report.repairs is not None
        if kind != "circle":  # which may be mended, so that nothing is dropped for it
            assert len(report.repairs.dropped) == 1
            fill(open_entry(cache))
        else:
            assert not report.repairs.dropped
            path.unlink()
            path.write_bytes(whole[str(path.relative_to(cache))] or b"")
        assert tree(cache) == whole


def test_reading_a_part_of_such_a_file_is_refused(cache: Path) -> None:
    path = next((cache / "teachers/teacher").glob("*/c/0/*"))
    replace_by("fifo")(path)
    with pytest.raises(CorruptError, match="FIFO"):
        LocalFiles(cache).get_part(os.path.relpath(path, cache), 0, 4)
    entry = Cache.open(cache).entry("teacher")
    with pytest.raises(CorruptError, match="FIFO"):
        [entry.read_block(0, block) for block in range(entry.layout.blocks)]
