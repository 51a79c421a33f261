"""What the record in a held folder says of its owner, and which file systems count as local disks."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kdcache.io.lock_file as lock_file
from kdcache.errors import FolderHeldError
from kdcache.io.folder_lock import OWNER_FILE, hold_folder
from kdcache.io.lock_owner import Owner, file_system_of, is_local
from support.folder_holder import a_dead_process, leave, owner_in

REMEDY = "Give another --out."


def test_a_record_with_other_names_is_replaced(locks, hold, tmp_path):
    """Such as that of a copy of hard links, which keeps what it was."""
    leave(tmp_path / "run", pid=a_dead_process())
    os.link(tmp_path / "run" / OWNER_FILE, tmp_path / "copy")
    before = (tmp_path / "copy").read_bytes()
    with hold():
        assert owner_in(tmp_path / "run").pid == os.getpid()
    assert (tmp_path / "copy").read_bytes() == before


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_left_alone(make, hold, tmp_path):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / OWNER_FILE)
    with pytest.raises(FolderHeldError, match="it is no file"):
        hold()


WHOLE = Owner.this_process().record(0)


@given(st.one_of(st.integers(0, len(WHOLE) - 2).map(lambda end: WHOLE[:end]), st.integers(0, 999).map(bytes)))
def test_a_record_that_was_cut_short_is_nobodys(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    (folder / OWNER_FILE).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock_file, "is_local", lambda path: True)
        with hold_folder(folder, "The folder", REMEDY, pytest.fail):
            assert owner_in(folder).pid == os.getpid()


@given(st.binary(min_size=1).filter(lambda content: content[:1] not in (b"\0", b"{")))
def test_what_kdcache_did_not_write_is_left_alone(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    (folder / OWNER_FILE).write_bytes(content)
    with pytest.raises(FolderHeldError, match="nothing that kdcache wrote"):
        hold_folder(folder, "The folder", REMEDY, pytest.fail)
    assert (folder / OWNER_FILE).read_bytes() == content


def test_a_record_cannot_write_to_the_terminal(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(lock_file, "is_local", lambda path: False)
    leave(tmp_path / "run", pid=os.getppid(), started=0, host="a\x1b[2Jb", command="c\nd\u202ee")
    with pytest.raises(FolderHeldError) as refusal:
        hold()
    assert str(refusal.value).isprintable()
    assert r"on a\x1b[2Jb (c\nd\u202ee, since" in str(refusal.value)


def test_arguments_that_are_no_text_are_noted(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/train.py", "--out", os.fsdecode(b"r\xffn"), "x" * 5000])
    with hold(), pytest.raises(FolderHeldError, match=r"\(train\.py --out 'r\?n' xxx"):
        hold()


MOUNTS = r"""
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
41 27 0:39 / /data rw,relatime shared:2 - nfs4 server:/data rw
42 41 0:40 / /data/a\040b rw,relatime - tmpfs tmpfs rw
43 27 0:41 / /srv rw - xfs /dev/vdb rw
44 43 0:42 / /srv rw master:3 propagate_from:2 - fuse.sshfs host:/ rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/a", "ext4"),
        ("/database", "ext4"),
        ("/data", "nfs4"),
        ("/data/runs/a", "nfs4"),
        ("/data/a b/run", "tmpfs"),
        ("/srv/a", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_deepest_mount(path, kind):
    assert file_system_of(path, MOUNTS) == kind


def test_where_mounts_cannot_be_read_no_disk_counts_as_local(monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError

    assert file_system_of("/", "") == ""
    monkeypatch.setattr(Path, "read_text", refuse)
    assert not is_local(Path("/"))
