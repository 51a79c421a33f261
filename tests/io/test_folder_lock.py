"""One process at a time holds a folder, and none that is dead does."""

import dataclasses
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import kdcache.io.folder_lock as folder_lock
import kdcache.io.lock_file as lock_file
from kdcache.errors import FolderHeldError
from kdcache.io.folder_lock import OWNER_FILE, hold_beside, hold_folder
from kdcache.io.lock_owner import Owner
from support.folder_holder import a_dead_process, first_line, leave, owner_in, start_holder, without_locks

REMEDY = "Give another --out."


def start_time(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_the_lock_names_this_process_and_goes_with_it(locks, hold, tmp_path):
    with hold():
        owner = owner_in(tmp_path / "run")
        assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
        assert owner.life() == "alive"
    assert list(tmp_path.iterdir()) == [], "a folder that was made for the lock alone goes with it"
    with hold():
        (tmp_path / "run" / "results").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results"]


def test_a_folder_is_held_once_within_a_process_too(locks, hold):
    with hold() as lock, pytest.raises(FolderHeldError, match=f"process {os.getpid()} on"):
        hold()
    lock.release()
    with hold():
        pass


def test_another_process_is_named(hold, tmp_path):
    with hold():
        before = (tmp_path / "run" / OWNER_FILE).stat()
        other = start_holder(tmp_path / "run")
        said = first_line(other)
        assert other.wait() == 0
        assert f"process {os.getpid()} on {socket.gethostname()} (" in said
        assert said.endswith("Wait.")
        after = (tmp_path / "run" / OWNER_FILE).stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    other = start_holder(tmp_path / "run")
    assert first_line(other) == "held"
    with pytest.raises(FolderHeldError, match=f"process {other.pid} on .*folder_holder.py hold.*{REMEDY}"):
        hold()
    other.communicate()
    with hold():
        pass


@pytest.mark.parametrize("options", [(), ("no-locks",)])
def test_a_killed_process_holds_nothing(options, hold, told, tmp_path, monkeypatch, quick):
    if options:
        monkeypatch.setattr(fcntl, "flock", fcntl.flock)
        without_locks()
    other = start_holder(tmp_path / "run", *options)
    assert first_line(other) == "held"
    other.kill()
    other.communicate()
    assert (tmp_path / "run" / OWNER_FILE).exists()
    with hold():
        assert owner_in(tmp_path / "run").pid == os.getpid()
    assert told == [], "it was not waited for"


def test_a_child_of_a_killed_process_does_not_go_on_holding(hold, told, tmp_path):
    other = start_holder(tmp_path / "run", mode="fork")
    assert first_line(other) == "held"
    children = [int(pid) for pid in Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()]
    assert len(children) == 1
    other.kill()
    other.wait()
    try:
        with hold():
            os.kill(children[0], 0)  # still there
    finally:
        os.kill(children[0], signal.SIGKILL)
        other.communicate()
    assert told == []


def test_a_number_that_was_given_to_another_process_is_no_owner(locks, hold, told, tmp_path):
    leave(tmp_path / "run", pid=os.getppid(), started=1)
    with hold():
        assert owner_in(tmp_path / "run").pid == os.getpid()
    assert told == []


def test_a_process_that_runs_is_the_owner_whatever_its_lock_says(locks, hold, tmp_path, monkeypatch):
    """A network mount may know of locks and yet not tell of those that were taken through another mount."""
    monkeypatch.setattr(lock_file, "is_local", lambda path: False)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = start_time(child.pid)
        leave(tmp_path / "run", pid=child.pid, started=started)
        with pytest.raises(FolderHeldError, match=f"process {child.pid} on"):
            hold()
    finally:
        child.communicate()
    with hold():
        pass


def test_a_copy_of_a_held_folder_is_held_by_nobody(hold, told, tmp_path, monkeypatch):
    monkeypatch.setattr(lock_file, "is_local", lambda path: True)
    with hold():
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with hold(tmp_path / "copy"):
            pass
    assert told == []


def test_a_process_that_has_ended_and_waits_for_its_parent_is_dead(locks, hold, told, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_time(child.pid)
    leave(tmp_path / "run", pid=child.pid, started=started)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with hold():
        pass
    child.wait()


ANOTHER_MACHINE = {"boot": "another", "host": "another"}
ANOTHER_CONTAINER = {"pid_namespace": 1}
AN_EARLIER_BOOT = {"boot": "another"}


@pytest.mark.parametrize(
    ("changes", "local", "has_locks", "waits"),
    [
        (AN_EARLIER_BOOT, True, True, False),
        (AN_EARLIER_BOOT, True, False, False),
        (AN_EARLIER_BOOT, False, True, True),  # on a network mount a machine of the same name is another one
        (ANOTHER_CONTAINER, True, True, False),
        (ANOTHER_CONTAINER, True, False, True),
        (ANOTHER_CONTAINER, False, True, True),  # which may have mounted it for itself
        (ANOTHER_MACHINE, True, True, True),  # through a server's own disk
        (ANOTHER_MACHINE, False, True, True),
        (ANOTHER_MACHINE, False, False, True),
    ],
)
def test_who_cannot_be_asked_is_waited_for(changes, local, has_locks, waits, hold, told, tmp_path, monkeypatch, quick):
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", fcntl.flock)
        without_locks()
    monkeypatch.setattr(lock_file, "is_local", lambda path: local)
    leave(tmp_path / "run", **changes)
    with hold():
        assert owner_in(tmp_path / "run").pid == os.getpid()
    assert bool(told) == waits
    assert all("it is not known here whether" in line for line in told)
    assert list(tmp_path.glob("run/*")) == list(tmp_path.glob("run/.*")) == []


def test_who_was_silent_for_long_is_not_waited_for(hold, told, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "NOTICE_AFTER", 0.0)
    leave(tmp_path / "run", **ANOTHER_MACHINE)
    os.utime(tmp_path / "run" / OWNER_FILE, (1, 1))
    with hold():
        pass
    assert told == []


def test_a_sign_of_life_ends_the_waiting(hold, told, tmp_path, monkeypatch):
    owner = leave(tmp_path / "run", **ANOTHER_MACHINE)
    monkeypatch.setattr(folder_lock, "NOTICE_AFTER", 0.0)

    def show_life(line):
        told.append(line)
        (tmp_path / "run" / OWNER_FILE).write_bytes(owner.record(8))

    with pytest.raises(FolderHeldError, match=f"process {owner.pid} on another"):
        hold_folder(tmp_path / "run", "The folder", REMEDY, show_life)
    assert len(told) == 1
    assert owner_in(tmp_path / "run") == owner


def test_signs_of_life_are_shown(locks, hold, tmp_path):
    file = tmp_path / "run" / OWNER_FILE
    with hold():
        before = file.read_bytes()
        wait_until(lambda: file.read_bytes() != before)
        assert owner_in(tmp_path / "run") == Owner.from_record(before)


def wait_until(condition):
    """Wait for what another thread does; it takes moments, and the deadline only guards against hanging."""
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it did not come")


def test_an_owner_that_was_taken_for_dead_learns_of_it(locks, hold, tmp_path):
    with hold() as lock:
        lock.require_held()
        (tmp_path / "new").write_bytes(dataclasses.replace(Owner.this_process(), pid=4711, host="another").record(0))
        os.replace(tmp_path / "new", tmp_path / "run" / OWNER_FILE)

        def lost():
            try:
                lock.require_held()
            except FolderHeldError as error:
                return "taken over by process 4711 on another" in str(error)

        wait_until(lost)
    assert owner_in(tmp_path / "run").pid == 4711, "what is another's stays"


@pytest.mark.parametrize("options", [(), ("no-locks",)])
def test_processes_that_want_it_at_the_same_time_have_it_in_turn(options, tmp_path):
    """Some die with it; those that come after them take it over, one of them each time."""
    folder = tmp_path / "run"
    folder.mkdir()
    processes = [start_holder(folder, *options, mode="turns") for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    assert {path.name for path in folder.iterdir()} == {OWNER_FILE}


def test_nothing_is_written_through_a_link(locks, hold, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    place = tmp_path / "run" / OWNER_FILE
    place.symlink_to(victim)
    with pytest.raises(FolderHeldError, match="it is a link: nothing was changed"):
        hold()
    place.unlink()
    place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FolderHeldError, match="a link"):
        hold()
    assert place.is_symlink()
    assert not (tmp_path / "nowhere").exists()
    place.unlink()
    os.link(victim, place)
    with pytest.raises(FolderHeldError, match="nothing that kdcache wrote"):
        hold()
    assert victim.read_text() == "mine"


def test_what_killed_processes_were_about_to_put_there_goes(hold, tmp_path):
    (tmp_path / "run").mkdir()
    old, new, other = (tmp_path / "run" / f"{OWNER_FILE}-{suffix}" for suffix in ("a" * 32, "b" * 32, "notes"))
    for file in (old, new, other):
        file.touch()
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    with hold():
        pass
    assert sorted(tmp_path.glob("run/.*")) == [new, other]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can leave a file of another user's")
def test_a_dead_process_of_another_user_does_not_stand_in_the_way():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are for one user alone
        folder = Path(name)
        leave(folder, pid=a_dead_process())
        (folder / OWNER_FILE).chmod(0o644)
        folder.chmod(0o777)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(12345)
                hold_folder(folder, "The folder", REMEDY, print)
            finally:
                os._exit(owner_in(folder).pid != os.getpid())
        assert os.waitpid(child, 0)[1] == 0


def test_a_file_is_held_by_a_lock_beside_it(tmp_path):
    def hold(name):
        return hold_beside(tmp_path / name, name, REMEDY, pytest.fail)

    refused = pytest.raises(FolderHeldError, match=r"^a\.html is being written by process")
    with hold("a.html"), hold("b.html"), refused:
        hold("a.html")
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_an_owner_that_lives(tmp_path, told, quick):
    first = hold_beside(tmp_path / "index", "The index", REMEDY, told.append)

    def release(line):
        told.append(line)
        first.release()

    with hold_beside(tmp_path / "index", "The index", REMEDY, release, wait=True):
        pass
    assert [f"process {os.getpid()} on" in line and "waiting until it has ended" in line for line in told] == [True]


def test_errors_of_the_system_are_passed_on(hold, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        hold(tmp_path / "file" / "run")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        hold()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
