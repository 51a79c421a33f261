"""Files and folders that are whole or not there, and nothing written or removed through a link."""

import errno
import os
import re
from pathlib import Path

import pytest

from kdcache.io.atomic import PARTIAL_NAME, append, new_folder, partial_name, remove_known, replace_file, tidy
from kdcache.io.disk import Disk, make_folder
from kdcache.io.failures import LinkError, RefusedError, SpecialFileError
from kdcache.io.folders import Location, components, open_folder
from support.links import Foreign

OURS = re.compile(r"a|b|c")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    return Foreign(tmp_path / "foreign")


class Full(Disk):
    """Takes half of what is written, and no more."""

    def write(self, file: int, data: bytes) -> None:
        super().write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_replaced_as_a_whole(root: Path) -> None:
    root.mkdir()
    replace_file(root, "in/a", b"one")
    replace_file(root, "in/a", b"t", b"wo")
    assert (root / "in/a").read_bytes() == b"two"
    assert names(root / "in") == ["a"]
    with pytest.raises(OSError, match="No space"):
        replace_file(root, "in/a", b"three", disk=Full())
    assert (root / "in/a").read_bytes() == b"two"
    assert names(root / "in") == ["a"]


def test_files_have_the_permissions_that_the_umask_allows(root: Path) -> None:
    root.mkdir()
    before = os.umask(0o027)
    try:
        replace_file(root, "in/a", b"one")
        with new_folder(root, "folder", OURS) as folder:
            os.close(os.open(folder / "a", os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert [(root / name).stat().st_mode & 0o777 for name in ("in/a", "folder/a", "folder")] == [0o640, 0o640, 0o750]


def test_the_root_may_be_a_link(tmp_path: Path, root: Path) -> None:
    (tmp_path / "disk").mkdir()
    root.symlink_to(tmp_path / "disk")
    replace_file(root, "in/a", b"one")
    with new_folder(root, "folder", OURS) as folder:
        (folder / "a").write_bytes(b"x")
    assert names(tmp_path / "disk") == ["folder", "in"]


@pytest.mark.parametrize("link", ["in", "in/deep"])
def test_nothing_is_written_or_removed_through_a_link(root: Path, foreign: Foreign, link: str) -> None:
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(foreign.path)
    key = "in/deep/precious.txt"
    for ask in (
        lambda: replace_file(root, key, b"x"),
        lambda: new_folder(root, key, OURS).__enter__(),
        lambda: tidy(root, "in/deep"),
        lambda: remove_known(root, key, re.compile(".*")),
        lambda: remove_known(root, "in", re.compile(".*")),
        lambda: make_folder(root, "in/deep/more"),
    ):
        with pytest.raises(LinkError, match=rf"{link} is a symbolic link, which kdcache does not follow"):
            ask()
    foreign.assert_untouched()


def test_a_link_in_a_files_place_is_replaced_and_not_followed(root: Path, foreign: Foreign) -> None:
    root.mkdir()
    (root / "a").symlink_to(foreign.path / "precious.txt")
    replace_file(root, "a", b"x")
    assert not (root / "a").is_symlink()
    (root / "b").symlink_to(foreign.path / "precious.txt")
    remove_known(root, "b", OURS)
    assert names(root) == ["a"]
    foreign.assert_untouched()


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(root: Path, foreign: Foreign) -> None:
    """Between the walk and the renaming, which is made in the folder that was walked through."""

    class Swapped(Disk):
        def replace(self, source: Location, target: Location) -> None:
            os.rename(root / "in", root / "moved")
            (root / "in").symlink_to(foreign.path)
            super().replace(source, target)

    root.mkdir()
    replace_file(root, "in/precious.txt", b"x", disk=Swapped())
    assert names(root / "moved") == ["precious.txt"]
    foreign.assert_untouched()


def test_a_folder_is_there_once_it_is_full(root: Path) -> None:
    with new_folder(root, "in/folder", OURS) as folder:
        (folder / "a").write_bytes(b"1")
        assert [name for name in names(root / "in") if not PARTIAL_NAME.fullmatch(name)] == []
    assert names(root / "in/folder") == ["a"]
    with new_folder(root, "in/folder", OURS) as folder:
        (folder / "b").write_bytes(b"2")
    assert names(root / "in/folder") == ["b"]
    with pytest.raises(FileNotFoundError), new_folder(root, "in/folder", OURS) as folder:
        (folder / "no folder/c").write_bytes(b"3")
    assert names(root / "in") == ["folder"]
    assert names(root / "in/folder") == ["b"]


def test_what_is_added_is_added_whole_or_not_at_all(root: Path, foreign: Foreign) -> None:
    root.mkdir()
    append(root, "a", b"one")
    append(root, "a", b"two")
    with pytest.raises(OSError, match="No space"):
        append(root, "a", b"three", disk=Full())
    assert (root / "a").read_bytes() == b"onetwo"
    (root / "link").symlink_to(foreign.path / "precious.txt")
    with pytest.raises(LinkError):
        append(root, "link", b"x")
    with pytest.raises(FileNotFoundError):
        append(root / "none", "a", b"x")
    foreign.assert_untouched()


def test_a_former_folder_comes_back_when_the_new_one_cannot_be_put(root: Path) -> None:
    class Broken(Disk):
        def replace(self, source: Location, target: Location) -> None:
            if target.name == "folder" and (source.path / "b").exists():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().replace(source, target)

    with new_folder(root, "folder", OURS) as folder:
        (folder / "a").write_bytes(b"1")
    with pytest.raises(OSError, match="Input/output"), new_folder(root, "folder", OURS, Broken()) as folder:
        (folder / "b").write_bytes(b"2")
    assert names(root) == ["folder"]
    assert names(root / "folder") == ["a"]


def test_a_folder_with_foreign_files_is_not_replaced(root: Path, foreign: Foreign) -> None:
    (root / "folder").mkdir(parents=True)
    (root / "folder/a").write_text("")
    (root / "folder/.DS_Store").write_text("")
    (root / "folder/notes.txt").write_text("mine")
    with pytest.raises(RefusedError, match=r"holds notes\.txt, which kdcache did not write"):
        new_folder(root, "folder", OURS).__enter__()
    (root / "link").symlink_to(foreign.path)
    with pytest.raises(LinkError):
        new_folder(root, "link", OURS).__enter__()
    assert names(root / "folder") == [".DS_Store", "a", "notes.txt"]
    (root / "folder/notes.txt").unlink()
    with new_folder(root, "folder", OURS):
        pass
    assert names(root) == ["folder", "link"]
    foreign.assert_untouched()


def test_only_what_has_a_name_of_ours_is_tidied(root: Path, foreign: Foreign) -> None:
    kept = [".notes.0123456789abcdef0123456789abcdef", ".a.partial-0123", "a", f"{partial_name('a')}.txt", "partial"]
    for name in kept:
        (root / name).mkdir(parents=True)
    (root / partial_name("a")).write_text("")
    (root / partial_name("b")).mkdir()
    full = root / partial_name("c")
    full.mkdir()
    (full / "file").write_text("")
    (full / "link").symlink_to(foreign.path)
    (root / partial_name("d")).symlink_to(foreign.path)
    tidy(root)
    assert names(root) == sorted(kept)
    tidy(root / "not there")
    foreign.assert_untouched()


def test_what_is_known_goes_and_all_else_stays(root: Path, foreign: Foreign) -> None:
    known = re.compile(r"a(/b(/c)?|/link)?")
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c").write_text("")
    (root / "a/link").symlink_to(foreign.path / "precious.txt")
    (root / "a/mine").write_text("")
    remove_known(root, "a", known)
    assert names(root) == ["a"]
    assert names(root / "a") == ["mine"]
    (root / "a/mine").unlink()
    remove_known(root, "a", known)
    assert names(root) == []
    remove_known(root, "a/b/c", known)
    foreign.assert_untouched()


def test_a_file_that_is_shared_is_never_opened_through_a_link(root: Path, foreign: Foreign) -> None:
    root.mkdir()
    (root / "symbolic").symlink_to(foreign.path / "precious.txt")
    (root / "hard").hardlink_to(foreign.path / "precious.txt")
    os.mkfifo(root / "fifo")
    with open_folder(root) as folder:
        for name, kind in (("symbolic", LinkError), ("hard", LinkError), ("fifo", SpecialFileError)):
            with pytest.raises(kind):
                Disk().open(folder.at(name))
        os.close(Disk().open(folder.at("file")))
        os.close(Disk().open(folder.at("file")))
        with pytest.raises(FileExistsError):
            Disk().create(folder.at("symbolic"))
    foreign.assert_untouched()


@pytest.mark.parametrize("key", ["../a", "a/../b", "/a", "./a"])
def test_no_key_leads_out_of_its_folder(key: str) -> None:
    with pytest.raises(ValueError, match="leads out"):
        components(key)
