"""Processes that hold folders: `python folder_holder.py hold FOLDER`, and `start_holder`, which starts one."""

import dataclasses
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import kdcache.io.folder_lock as folder_lock
from kdcache.errors import FolderHeldError
from kdcache.io.folder_lock import OWNER_FILE
from kdcache.io.lock_owner import Owner

REMEDY = "Wait."


def start_holder(folder: Path, *options: str, mode: str = "hold") -> subprocess.Popen[str]:
    """A process that holds a folder until its stdin is closed; it has said "held", or a refusal, in its first line."""
    command = [sys.executable, __file__, mode, str(folder), *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    """What a process says first."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def without_locks(number: int = errno.ENOLCK) -> None:
    """Make every file system one without locks, for this process."""

    def flock(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = flock  # type: ignore[assignment]


def hold(folder: Path) -> folder_lock.FolderLock:
    """Hold a folder, and tell of waiting in the first line of stdout."""
    return folder_lock.hold_folder(folder, f"The folder {folder}", REMEDY, lambda line: print(line, flush=True))


def take_turns(folder: Path, turns: int) -> None:
    """Hold a folder so many times, and fail where another process has it at the same time; die now and then."""
    done = 0
    while done < turns:
        try:
            with hold(folder):
                alone = os.open(folder / "alone", os.O_CREAT | os.O_EXCL)
                time.sleep(0.001)
                os.close(alone)
                os.unlink(folder / "alone")
                done += 1
        except FolderHeldError:
            time.sleep(0.001)
    lock = hold_patiently(folder)
    assert lock is not None
    os._exit(0)  # as dead as if it had been killed: the lock stays


def hold_patiently(folder: Path) -> folder_lock.FolderLock:
    """Hold a folder as soon as nobody else does."""
    while True:
        try:
            return hold(folder)
        except FolderHeldError:
            time.sleep(0.001)


def main(mode: str, folder: str, *options: str) -> None:
    """Hold a folder, or take turns in holding it."""
    if "no-locks" in options:
        without_locks()
        folder_lock.SETTLING_TIME = 0.05
    if mode == "turns":
        take_turns(Path(folder), 20)
    try:
        with hold(Path(folder)):
            if mode == "fork" and os.fork() == 0:
                time.sleep(600)
            print("held", flush=True)
            sys.stdin.read()
    except FolderHeldError as error:
        print(error, flush=True)


def leave(folder: Path, **changes: object) -> Owner:
    """Leave the lock of an owner that is not this process; return the owner."""
    owner = dataclasses.replace(Owner.this_process(), **changes)
    folder.mkdir(exist_ok=True)
    (folder / OWNER_FILE).write_bytes(owner.record(7))
    return owner


def owner_in(folder: Path) -> Owner:
    """Return the owner that a folder's lock names."""
    return Owner.from_record((folder / OWNER_FILE).read_bytes())


def a_dead_process() -> int:
    """Return the number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


if __name__ == "__main__":
    main(*sys.argv[1:])
