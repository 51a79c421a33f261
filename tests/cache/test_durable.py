"""Files on a local disk: whole or not there, and errors that say what to do."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from kdcache.cache.durable import LocalFiles
from kdcache.errors import CacheError
from kdcache.io.disk import Disk
from kdcache.io.folders import Location
from support.disks import Killed, WatchedDisk
from support.files_contract import check_parts


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "new" / "cache")


def test_what_is_put_is_got(files: LocalFiles) -> None:
    assert files.get("a/b") is None
    assert files.size("a/b") is None
    assert files.names("a") == []
    files.put("a/b", b"one")
    files.put("a/b", b"three")
    assert files.get("a/b") == b"three"
    assert files.size("a/b") == 5
    files.put("a/a/c", b"")
    assert files.names("a") == ["a", "b"]
    assert files.get("a/a/c") == b""
    assert files.get("a/b/c") is None
    files.delete("a/b")
    files.delete("a/b")
    assert files.names("a") == ["a"]


def test_what_is_put_in_parts_is_got_in_parts(files: LocalFiles) -> None:
    check_parts(files)


def test_put_if_absent_never_replaces(files: LocalFiles) -> None:
    assert files.put_if_absent("r/1.json", b"first")
    assert not files.put_if_absent("r/1.json", b"second")
    assert files.get("r/1.json") == b"first"


def test_of_two_writers_at_once_one_wins(tmp_path: Path) -> None:
    """The other writes between the look and the link."""

    class Slow(Disk):
        def link(self, source: Location, target: Location) -> None:
            LocalFiles(tmp_path).put("key", b"other")
            super().link(source, target)

    assert not LocalFiles(tmp_path, disk=Slow()).put_if_absent("key", b"own")
    assert LocalFiles(tmp_path).get("key") == b"other"
    LocalFiles(tmp_path).tidy()
    assert LocalFiles(tmp_path).names("") == ["key"]


class NoLinks(Disk):
    def link(self, source: Location, target: Location) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_file_system_without_hard_links_will_do(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path, disk=NoLinks())
    assert files.put_if_absent("key", b"first")
    assert not files.put_if_absent("key", b"second")
    assert files.get("key") == b"first"
    files.tidy()
    assert files.names("") == ["key"]


def test_without_hard_links_one_of_two_writers_at_once_wins(tmp_path: Path) -> None:
    """The other comes between the look and the renaming, and has to wait."""
    found = []

    class Slow(NoLinks):
        def replace(self, source: Location, target: Location) -> None:
            other = threading.Thread(
                target=lambda: found.append(LocalFiles(tmp_path, disk=NoLinks()).put_if_absent("key", b"other"))
            )
            other.start()
            other.join(0.2)
            assert not found, "it did not wait"
            super().replace(source, target)
            waiting.append(other)

    waiting: list[threading.Thread] = []
    assert LocalFiles(tmp_path, disk=Slow()).put_if_absent("key", b"own")
    waiting[0].join()
    assert found == [False]
    assert LocalFiles(tmp_path).get("key") == b"own"
    LocalFiles(tmp_path).tidy()
    assert LocalFiles(tmp_path).names("") == ["key"]


def test_a_file_system_with_neither_links_nor_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    files = LocalFiles(tmp_path, disk=NoLinks())
    with pytest.raises(CacheError, match=r"neither hard links nor locks.*another file system"):
        files.put_if_absent("key", b"data")
    assert list((tmp_path / ".partial").iterdir()) == []
    assert not (tmp_path / "key").exists()


def test_a_file_is_flushed_before_it_has_its_name_and_its_folders_after(tmp_path: Path) -> None:
    disk = WatchedDisk()
    LocalFiles(tmp_path / "cache", disk=disk).put_if_absent("a/b", b"x")
    done = [
        name if name in ("create", "write", "flush") else (name, str(path.relative_to(tmp_path)))
        for name, path in disk.operations
        if name not in ("make_folder", "remove")
    ]
    assert done == [
        "create",
        "write",
        "flush",
        ("link", "cache/a/b"),
        ("flush_folder", "cache/a"),
        ("flush_folder", "cache"),
        ("flush_folder", "."),
    ]


def test_a_killed_writers_file_is_cleared_and_a_living_ones_is_not(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path, disk=WatchedDisk(3))
    with pytest.raises(Killed):
        files.put("key", b"data")
    (partial,) = (tmp_path / ".partial").iterdir()
    with partial.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        LocalFiles(tmp_path).tidy()
        assert partial.exists()
    LocalFiles(tmp_path).tidy()
    assert list(tmp_path.iterdir()) == []


def test_what_is_removed_as_left_over_is_held_until_it_is_gone(tmp_path: Path) -> None:
    """Else somebody could take a claim that vanishes under him, and another process the same once more."""

    class Looking(Disk):
        removed = 0

        def remove(self, place: Location) -> None:
            with place.path.open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.removed += 1
            super().remove(place)

    disk = Looking()
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial/claim-a").write_text("")
    LocalFiles(tmp_path, disk=disk).tidy()
    assert disk.removed == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_came_in_a_left_overs_place_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, path = fcntl.flock, tmp_path / ".partial/claim-a"

    def slow(file: int, operation: int) -> None:
        path.unlink()
        path.write_text("of somebody else's")
        flock(file, operation)

    path.parent.mkdir()
    path.write_text("")
    monkeypatch.setattr(fcntl, "flock", slow)
    LocalFiles(tmp_path).tidy()
    assert path.read_text() == "of somebody else's"


def test_a_writer_whose_file_was_taken_for_a_left_over_begins_anew(tmp_path: Path) -> None:
    class Robbed(Disk):
        robbed = 0

        def replace(self, source: Location, target: Location) -> None:
            if self.robbed < 3:
                self.robbed += 1
                source.path.unlink()
            super().replace(source, target)

    LocalFiles(tmp_path, disk=Robbed()).put("a/key", b"data")
    assert (tmp_path / "a/key").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "can write to"), (errno.EIO, "same command again")],
)
def test_errors_name_the_file_and_the_remedy(tmp_path: Path, number: int, words: str) -> None:
    class Broken(Disk):
        def write(self, file: int, data: bytes) -> None:
            raise OSError(number, os.strerror(number))

    files = LocalFiles(tmp_path, disk=Broken())
    for ask in (lambda: files.put("a/key", b"x"), lambda: files.put_if_absent("a/key", b"x")):
        with pytest.raises(CacheError, match=words) as caught:
            ask()
        assert f"Cannot write {tmp_path}/a/key: {os.strerror(number)}." in str(caught.value)
    assert list((tmp_path / ".partial").iterdir()) == []
    assert not (tmp_path / "a/key").exists()


def test_a_file_in_the_way_is_an_error_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="Not a directory"):
        LocalFiles(tmp_path / "file" / "cache").prepare()


def test_what_was_opened_for_reading_is_not_changed(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path, read_only=True)
    for ask in (
        lambda: files.put("a", b""),
        lambda: files.put_if_absent("a", b""),
        lambda: files.delete("a"),
        lambda: files.prepare(),
        lambda: files.tidy(),
    ):
        with pytest.raises(CacheError, match="opened for reading"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_preparing_leaves_nothing_behind(tmp_path: Path) -> None:
    LocalFiles(tmp_path).prepare()
    assert list(tmp_path.iterdir()) == []
