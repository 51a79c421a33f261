"""Claims: which process makes which block, so that processes that share a cache make different ones.

A claim is a hint. What is right rests on records alone, which are put where none is: a claim that is lost, or taken
over from a process that only seemed dead, costs the work of one block. Where the file system has locks a claim is a
locked file in the cache's folder of partial files: the system frees it when its process dies, and whoever tidies that
folder removes it. Elsewhere it is an object that its owner rewrites every few seconds, and that others take over when
it has not been for a while, by the clock of the place where it lies. Either says who its owner is, for messages.
"""

import fcntl
import os
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.durable import KEPT, PARTIAL, LocalFiles, is_still
from kdcache.cache.files import Files
from kdcache.errors import CacheError, printable_excerpt
from kdcache.io.failures import cannot_write
from kdcache.io.folders import open_folder
from kdcache.io.reading import read_bytes

#: Seconds between two heartbeats of a claim that is an object.
HEARTBEAT_INTERVAL = 20.0
#: Seconds without a heartbeat after which such a claim is taken over.
LEASE_TIMEOUT = 6 * HEARTBEAT_INTERVAL

#: Bytes that a claim that is a file may have.
MAX_CLAIM = 2**16

#: Seconds after which a lock is tried once more: whoever looks for left-overs has it for a moment.
GLANCE = 0.002


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim, as the claim itself names it.

    Attributes:
        who: process and host.
        silent: seconds since its last heartbeat; None where the system tells when the process dies.
        lease_timeout: seconds without a heartbeat after which it is taken for dead; None likewise.
    """

    who: str
    silent: float | None = None
    lease_timeout: float | None = None

    def describe(self) -> str:
        """Return one or two sentences on the process that holds the claim."""
        if self.silent is None or self.lease_timeout is None:
            return f"{self.who} holds the claim on it."
        return (
            f"{self.who} holds the claim on it. Its last heartbeat was {self.silent:.0f} s ago; after "
            f"{self.lease_timeout:.0f} s without one another process takes the work over."
        )


class Claims(ABC):
    """The claims that one process holds. Any thread may ask."""

    @abstractmethod
    def take(self, name: str) -> bool:
        """Claim a piece of work by its name (fit for a file).

        False where somebody has it, this process included, and after `close`: a thread may still be asking then.
        """

    @abstractmethod
    def holder(self, name: str) -> Holder | None:
        """Return the holder of a claim that could not be taken; None where none is known."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Give a claim back, done or not; nothing happens where it is not held."""

    @abstractmethod
    def close(self) -> None:
        """Give back all that is held, and leave nothing behind."""

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def block_claim(teacher: str, view: int, block: int) -> str:
    """Return the name of the claim on a block. A dump and a copy use the same one."""
    return f"{teacher}-{view}-{block}"


def open_claims(files: Files) -> Claims:
    """Claims on pieces of work in these files, of the kind that the place allows."""
    if isinstance(files, LocalFiles) and _has_locks(files.root / PARTIAL):
        return LockedClaims(files)
    return BeatingClaims(files)


class LockedClaims(Claims):
    """Files that are locked as long as their process lives."""

    def __init__(self, files: LocalFiles) -> None:
        self._files = files
        self._disk = files.disk
        self._held: dict[str, int] = {}
        self._closed = False
        self._one_at_a_time = threading.Lock()

    def take(self, name: str) -> bool:
        """Claim a piece of work."""
        with self._one_at_a_time:
            if name in self._held or self._closed:
                return False
            file = self._lock(f"claim-{name}")
            if file is None:
                return False
            self._held[name] = file
            with suppress(OSError):  # the lock is the claim
                self._disk.clear(file)
                self._disk.write(file, _self().encode())
            return True

    def holder(self, name: str) -> Holder | None:
        """Return the holder of a claim."""
        try:
            return Holder(_shown(read_bytes(self._files.root / PARTIAL / f"claim-{name}", MAX_CLAIM, follow=False)))
        except OSError:
            return None

    def _lock(self, name: str) -> int | None:
        """Return the descriptor of the file of this name with its lock; None where somebody else has that."""
        while True:
            try:
                with self._files.partial_folder() as folder:
                    file = self._disk.open(folder.at(name))
                    is_ours = False
                    try:
                        if not _locked_soon(file):
                            return None
                        # Else its owner gave it back, or somebody tidied it away, before it was locked here.
                        is_ours = is_still(file, folder.at(name))
                        if is_ours:
                            return file
                    finally:
                        if not is_ours:  # also where a signal interrupts the wait
                            os.close(file)
            except FileNotFoundError:  # another process tidied the folder away
                continue
            except OSError as error:
                raise CacheError(cannot_write(self._files.locate(f"{PARTIAL}/{name}"), error, KEPT)) from error

    def release(self, name: str) -> None:
        """Give a claim back."""
        with self._one_at_a_time:
            file = self._held.pop(name, None)
            if file is not None:
                try:
                    # A file that stays is nobody's once its lock is gone.
                    with suppress(OSError), open_folder(self._files.root, PARTIAL) as folder:
                        self._disk.remove(folder.at(f"claim-{name}"))
                finally:
                    os.close(file)

    def close(self) -> None:
        """Give back all that is held, and clear away what dead processes left."""
        with self._one_at_a_time:
            self._closed = True
        for name in list(self._held):
            self.release(name)
        with suppress(CacheError):
            self._files.tidy()


def _locked_soon(file: int) -> bool:
    """Return whether the lock of an open file could be had, at once or a moment later."""
    if _locked(file):
        return True
    time.sleep(GLANCE)
    return _locked(file)


def _locked(file: int) -> bool:
    """Return whether the lock of an open file could be had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


class BeatingClaims(Claims):
    """Objects that change as long as their process lives.

    heartbeat_interval, lease_timeout: seconds, see `HEARTBEAT_INTERVAL` and `LEASE_TIMEOUT`.
    """

    def __init__(
        self, files: Files, heartbeat_interval: float = HEARTBEAT_INTERVAL, lease_timeout: float = LEASE_TIMEOUT
    ) -> None:
        self._files = files
        #: A heartbeat that fails is made good by the next, and a claim that stays when all ends goes stale: neither
        #: is worth the minutes for which other requests are tried again.
        self._hasty = files.hasty()
        self._heartbeat_interval, self._lease_timeout = heartbeat_interval, lease_timeout
        self._token = uuid.uuid4().hex
        self._held: dict[str, int] = {}
        self._seen: dict[str, tuple[bytes, float]] = {}  # of others: its last content, and since when
        self._ahead: float | None = None  # seconds by which the place's clock is ahead of this process's
        self._one_at_a_time = threading.Lock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._keep_beating, name="kdcache-claims", daemon=True)
        self._heart.start()

    def take(self, name: str) -> bool:
        """Claim a piece of work; take it over where its owner has had no heartbeat for `lease_timeout`."""
        with self._one_at_a_time:
            if name in self._held or self._closed.is_set():
                return False
            found = self._files.get(_key(name))
            if found is not None:
                if name not in self._seen or self._seen[name][0] != found:
                    self._seen[name] = (found, self._put_at(name))
                if time.monotonic() - self._seen[name][1] < self._lease_timeout:
                    return False
                self._files.delete(_key(name))
            self._seen.pop(name, None)
            # Held before it is put: one that is put when a signal or an error comes is given back by `close`.
            self._held[name] = 0
            if not self._files.put_if_absent(_key(name), self._content(0)):
                del self._held[name]
            return name in self._held

    def holder(self, name: str) -> Holder | None:
        """Return the holder that a claim had when it was last read."""
        content, since = self._seen.get(name, (b"", 0.0))
        who = content.split(maxsplit=2)[2:]
        return Holder(_shown(who[0]), time.monotonic() - since, self._lease_timeout) if who else None

    def _put_at(self, name: str) -> float:
        """Return when a claim was last put, on this process's clock: never later than now."""
        now = time.monotonic()
        if self._ahead is None:
            key = f"{PARTIAL}/clock-{self._token}"
            self._files.put(key, b"")
            stamp = self._files.modified(key)
            self._files.delete(key)
            if stamp is None:
                return now
            self._ahead = stamp - time.monotonic()
        stamp = self._files.modified(_key(name))
        return now if stamp is None else min(now, stamp - self._ahead)

    def release(self, name: str) -> None:
        """Give a claim back; one that was taken over in the meantime is left to its new owner."""
        with self._one_at_a_time:
            self._release(name, self._files)

    def close(self) -> None:
        """Give back all that is held."""
        self._closed.set()
        self._heart.join()
        with self._one_at_a_time, suppress(CacheError):  # a claim that stays goes stale
            for name in list(self._held):
                self._release(name, self._hasty)

    def _keep_beating(self) -> None:
        while not self._closed.wait(self._heartbeat_interval):
            with self._one_at_a_time:
                for name in list(self._held):
                    # A place that cannot be reached for a moment is no reason to stop the work.
                    with suppress(CacheError):
                        if self._is_ours(name, self._hasty):
                            self._held[name] += 1
                            self._hasty.put(_key(name), self._content(self._held[name]))

    def _release(self, name: str, files: Files) -> None:
        if self._held.pop(name, None) is not None and self._is_ours(name, files):
            files.delete(_key(name))

    def _is_ours(self, name: str, files: Files) -> bool:
        content = files.confirm(_key(name), lambda: files.get(_key(name)))
        return (content or b"").startswith(self._token.encode())

    def _content(self, beats: int) -> bytes:
        return f"{self._token} {beats} {_self()}".encode()


def _key(name: str) -> str:
    return f"{PARTIAL}/claim-{name}"


def _self() -> str:
    """Return the name of this process, for the messages of others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _shown(who: bytes) -> str:
    """Return what a claim says of its owner, fit for a message whatever it is."""
    return printable_excerpt(who.decode(errors="replace"), 100, "another process")


def _has_locks(folder: Path) -> bool:
    """Return whether the file system of a folder that may not be there yet knows locks."""
    while not folder.exists():
        folder = folder.parent
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
