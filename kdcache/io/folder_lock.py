"""Locks of folders: a process that writes a folder holds it, and a second one is refused unless the first has died.

The lock is a file named `.kdcache-owner` in the folder, or `.NAME.kdcache-owner` beside a file, or beside a folder that
is replaced as a whole. It is locked with flock, its content names the process that holds it (`kdcache.io.lock_owner`),
and that process rewrites it every few seconds. A clean end removes it. After any other end it stays, and the next
process takes it over as soon as one of these shows that its owner is dead:

- a free lock on a local disk, where both run on one kernel, be it in two containers of one machine;
- process number and start time, where both share a PID namespace; a reused number has another start time;
- the host's name and a local disk, where the record is of an earlier boot of this machine;
- no sign of life for `LEASE_TIMEOUT`, everywhere else: on other machines, and where flock is missing (ENOLCK, ENOTSUP)
  or is known to one mount only (many network mounts), so that a free lock proves nothing.

The last case is waited for rather than refused, because a job that a scheduler starts again on another machine has
nobody who could try later. It ends early, with a refusal, when the owner shows a sign of life, and it ends at once
when the last one is older than the time-out already, by the clock of the file system.

A lease cannot exclude a process that was suspended for longer than the time-out and wakes up: it learns of its loss
with its next sign of life, and `FolderLock.require_held` raises from then on.

Why not filelock: its native lock has no owner and falls back for ENOSYS alone; its soft lock and its lease take over
from a dead owner by an exchange of two names (`renameat2`), which NFS and SMB do not have, so that a lock there stays
for ever. The blocks of a cache have claims instead (`kdcache.cache.claims`): there a double owner costs a little time,
object stores have to work as well, and thousands are taken a minute.
"""

import errno
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import FolderHeldError
from kdcache.io.lock_file import (
    OPEN_FLAGS,
    LockFile,
    Verdict,
    age_of,
    is_at,
    look_at,
    make_folders,
    removed_on_error,
    try_flock,
)
from kdcache.io.lock_owner import Owner

#: The lock of a folder, in it.
OWNER_FILE = ".kdcache-owner"

#: Seconds between two heartbeats of an owner.
HEARTBEAT_INTERVAL = 10.0
#: Seconds without a heartbeat after which an owner counts as dead if nothing else shows it. It covers the 60 seconds
#: for which NFS may cache the attributes of a file.
LEASE_TIMEOUT = 120.0
#: Seconds after which a record that was written over another one is read again, where no lock orders two writers.
SETTLING_TIME = 1.0
#: Seconds of waiting before a message: another process may hold the lock only for a moment.
NOTICE_AFTER = 2.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between two checks
_GLANCES = 50  # tries for the lock of a file that was just made


Tell = Callable[[str], None]


def is_lock_file(name: str) -> bool:
    """Return whether a file of this name is the lock of the folder that it lies in, or was to become it."""
    return name.startswith(OWNER_FILE)


@dataclass(frozen=True)
class Request:
    """The folder to hold, and the texts of messages about it.

    Attributes:
        lock: path of the lock file.
        target: path that is held, for errors of the system.
        subject: name of the held path in messages, such as "The run folder runs/a".
        remedy: sentence on what to do after a refusal.
        tell: called once with a message about what is waited for.
        wait: whether to wait also for an owner that is running.
    """

    lock: Path
    target: Path
    subject: str
    remedy: str
    tell: Tell
    wait: bool = False


def hold_folder(folder: Path, subject: str, remedy: str, tell: Tell) -> "FolderLock":
    """Hold a folder that this process is about to write, until the lock that is returned is released.

    Args:
        folder: path of the folder; it is created if missing, and removed at the end if it was created and stayed empty.
        subject: name of the folder in messages, such as "The run folder runs/a".
        remedy: sentence on what to do if another process holds the folder.
        tell: called with a line about what is waited for, if it is not known at once whether the owner runs.

    Raises:
        FolderHeldError: another process holds it, or the lock's place is taken by something that is no lock.
        OSError: the folder cannot be made or written.
    """
    return FolderLock(Request(folder / OWNER_FILE, folder, subject, remedy, tell))


def hold_beside(target: Path, subject: str, remedy: str, tell: Tell, *, wait: bool = False) -> "FolderLock":
    """Hold a file, or a folder that is replaced as a whole, by a lock beside it; else as `hold_folder`.

    wait: wait for another process to end, where it holds it, in place of raising.
    """
    lock = target.with_name(f".{target.name}{OWNER_FILE}")
    return FolderLock(Request(lock, target, subject, remedy, tell, wait))


def require_not_held(folder: Path, subject: str, remedy: str, tell: Tell) -> None:
    """Raise FolderHeldError where another process is known to hold a folder, as `hold_folder` does; writes nothing."""
    watch = _Watch(Request(folder / OWNER_FILE, folder, subject, remedy, tell))
    while (look := look_at(folder / OWNER_FILE)) is not None:
        with look:
            if watch.verdict(look) != "held":
                return
        watch.pause()


def require_not_held_within(folder: Path, remedy: str, tell: Tell) -> None:
    """Raise FolderHeldError where another process holds something below a folder; arguments as of `hold_folder`."""
    for lock in sorted(folder.rglob(f"*{OWNER_FILE}")):
        if lock.parent != folder or lock.name != OWNER_FILE:
            target = lock.parent / lock.name[1:].removesuffix(OWNER_FILE)
            target = lock.parent if lock.name == OWNER_FILE else target
            FolderLock(Request(lock, target, f"{target}", remedy, tell)).release()


class FolderLock:
    """A lock that this process holds from its making to `release`, or to the end of a `with` block."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._owner = Owner.this_process()
        self._beats = 0
        self._lost_to: str | None = None
        self._ended = threading.Event()
        self._file = -1
        self._made: list[Path] = []
        _close_in_children(self)
        try:
            self._made = make_folders(request.lock.parent)
            self._file = self._take()
        except OSError as error:
            self._remove_folders()
            raise OSError(error.errno, error.strerror or str(error), str(request.target)) from error
        except BaseException:
            self._remove_folders()
            raise
        self._remove_leftovers()
        self._heart = threading.Thread(target=self._keep_beating, name="kdcache-owner", daemon=True)
        self._heart.start()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def require_held(self) -> None:
        """Raise FolderHeldError where another process has taken the folder over meanwhile; costs nothing."""
        if self._lost_to is not None:
            raise FolderHeldError(
                f"{self._request.subject} was taken over by {self._lost_to}, because this process showed no sign of "
                f"life for {LEASE_TIMEOUT:.0f} seconds (a suspended machine, or a network mount that was lost). It "
                "stops here, so that their results are not mixed; run it again when the other one has ended."
            )

    def release(self) -> None:
        """Release the folder; a second call does nothing, nor a call in a process forked from the owner."""
        if self._ended.is_set() or os.getpid() != self._owner.pid:
            return
        self._ended.set()
        self._heart.join()
        try:
            with suppress(OSError, FolderHeldError):
                if self._is_ours():
                    try:
                        self._request.lock.unlink()
                    except OSError:  # an empty file is nobody's
                        os.ftruncate(self._file, 0)
        finally:
            file, self._file = self._file, -1
            os.close(file)
        self._remove_folders()

    def _take(self) -> int:
        """Return the descriptor of the lock file once it is this process's."""
        watch = _Watch(self._request)
        while True:
            try:
                file = self._create()
            except FileNotFoundError:  # its folder was made for another lock, and has gone with it
                self._made += make_folders(self._request.lock.parent)
                continue
            if file is not None:
                return file
            look = look_at(self._request.lock)
            if look is None:  # it has gone meanwhile
                continue
            with look:
                verdict = watch.verdict(look)
                if verdict == "free":
                    in_place = look.locked and look.writable
                    file = self._write_over(look) if in_place else self._replace(look)
                    if file is not None:
                        return file
            watch.pause()

    def _create(self) -> int | None:
        """Make the lock file; None where there is one, or where another process was quicker to lock it."""
        try:
            file = os.open(self._request.lock, os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o666)
        except FileExistsError:
            return None
        with removed_on_error(file, self._request.lock):
            for _ in range(_GLANCES):
                if try_flock(file) is not False:
                    if not is_at(file, self._request.lock):  # another process was quicker, and is done with it
                        break
                    self._write(file)
                    return file
                time.sleep(_FIRST_PAUSE)  # others lock it for a moment, to look at it
        os.close(file)
        return None

    def _write_over(self, look: LockFile) -> int | None:
        """Write this process's record to a lock file whose lock it holds; None if another process came first."""
        file = look.keep()
        with removed_on_error(file, self._request.lock):
            self._write(file)
            if look.local or self._has_settled():
                return file
        os.close(file)
        return None

    def _replace(self, look: LockFile) -> int | None:
        """Replace a lock file that was read by this process's; None if another process came first."""
        new = self._request.lock.with_name(f"{self._request.lock.name}-{self._owner.token}")
        file = os.open(new, os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o666)
        with removed_on_error(file, self._request.lock, new):
            try_flock(file)
            self._write(file)
            now = look_at(self._request.lock, lock=False)
            if now is not None:
                with now:
                    if now.same_as(look):
                        os.replace(new, self._request.lock)
                        # On a local disk, only one process holds the lock of the former file.
                        if (look.locked and look.local) or self._has_settled():
                            return file
        with suppress(OSError):
            new.unlink(missing_ok=True)
        os.close(file)
        return None

    def _has_settled(self) -> bool:
        """Return whether this process's record is still in place after others that wrote at the same time."""
        time.sleep(SETTLING_TIME)
        return self._is_ours()

    def _write(self, file: int) -> None:
        record = self._owner.record(self._beats)
        if os.pwrite(file, record, 0) < len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._request.lock))
        os.ftruncate(file, len(record))

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT_INTERVAL):
            # A disk that is full or out of reach for a moment is no reason to stop: the time-out is many beats long.
            with suppress(OSError, FolderHeldError):
                owner = self._owner_there()
                if owner is not None and owner.token != self._owner.token:
                    self._lost_to = owner.describe()
                    return
                self._beats += 1
                try:
                    self._write(self._file)
                except OSError:
                    os.utime(self._file)

    def _is_ours(self) -> bool:
        owner = self._owner_there()
        return owner is not None and owner.token == self._owner.token

    def _owner_there(self) -> Owner | None:
        # Opened anew: that is when a network mount asks its server.
        look = look_at(self._request.lock, lock=False)
        if look is None:
            return None
        with look:
            return look.owner

    def _remove_leftovers(self) -> None:
        """Remove the lock files that killed processes were about to put in place."""
        name, now = self._request.lock.name, os.fstat(self._file).st_mtime
        with suppress(OSError), os.scandir(self._request.lock.parent) as entries:
            for entry in entries:
                token = entry.name.removeprefix(f"{name}-")
                if len(token) == 32 and token != entry.name and not token.strip("0123456789abcdef"):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode) and now - about.st_mtime > LEASE_TIMEOUT:
                        os.unlink(entry.path)

    def _remove_folders(self) -> None:
        """Remove the folders that were made for the lock and hold nothing."""
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def _close_in_child(self) -> None:
        """Release the lock in a process forked from the owner; else it would stay after the owner's death."""
        if self._file >= 0:
            os.close(self._file)


class _Watch:
    """The observations of one process about a lock that it waits for."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._began = time.monotonic()
        self._pause = _FIRST_PAUSE
        self._reported = self._was_held = False
        self._last: LockFile | None = None
        self._living: Owner | None = None  # the owner of a record that changed while it was watched
        self._silent_since = 0.0

    def verdict(self, look: LockFile) -> Verdict:
        """Return whether the lock may be taken now; report what is waited for.

        Raises FolderHeldError if a process holds it and `wait` is False.
        """
        now = time.monotonic()
        verdict = look.verdict()
        if verdict == "unknown":
            verdict = self._judge_by_signs_of_life(look, now)
        # Its record may be about to change: only what is seen twice is refused.
        was_held, self._was_held = self._was_held, verdict == "held"
        if verdict == "held" and was_held and not self._request.wait:
            raise FolderHeldError(f"{self._request.subject} is being written by {_who(look)}. {self._request.remedy}")
        if verdict != "free" and not self._reported and now - self._began >= NOTICE_AFTER:
            self._reported = True
            self._request.tell(self._notice(look, verdict, now))
        return verdict

    def _judge_by_signs_of_life(self, look: LockFile, now: float) -> Verdict:
        """Judge the owner by its heartbeats: held after one, free after the time-out, unknown before."""
        owner = look.owner
        if self._last is None:
            self._silent_since = now - age_of(self._request.lock, look)
        elif not self._last.same_as(look):
            self._silent_since, self._living = now, owner
        self._last = look
        if now - self._silent_since >= LEASE_TIMEOUT:
            return "free"
        return "held" if owner is not None and owner == self._living else "unknown"

    def _notice(self, look: LockFile, verdict: Verdict, now: float) -> str:
        if verdict == "held":
            return f"{self._request.subject} is being written by {_who(look)}: waiting until it has ended."
        left = max(0.0, LEASE_TIMEOUT - (now - self._silent_since))
        return (
            f"{self._request.subject} was being written by {_who(look)}, and it is not known here whether that "
            f"process still runs. Waiting for its heartbeat; without one, this command continues in {left:.0f} s."
        )

    def pause(self) -> None:
        """Wait before the next check."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _who(look: LockFile) -> str:
    return "another process" if look.owner is None else look.owner.describe()


def _close_in_children(lock: FolderLock) -> None:
    reference = weakref.ref(lock)

    def close() -> None:
        lock = reference()
        if lock is not None:
            lock._close_in_child()

    os.register_at_fork(after_in_child=close)
