"""The interface of the place where the bytes of a cache lie."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import TypeVar

from kdcache.errors import CorruptError

T = TypeVar("T")

#: Bytes of a key that is read whole, at most: tables have a quarter of a gigabyte, and all else less.
MAX_WHOLE = 512 * 2**20


def is_there(found: object) -> bool:
    """Return whether a key was found, by what `get` or `size` says of it."""
    return found is not None


class Files(ABC):
    """Whole objects under keys such as `teachers/a/records/0/3.json`.

    Every failure is a CacheError that names the place. A local disk is `durable.LocalFiles`, an object store
    `objects.ObjectFiles`.
    """

    read_only: bool
    #: Whether a crash may keep what came later and lose what came before.
    may_lose: bool = True

    @abstractmethod
    def locate(self, key: str) -> str:
        """Return the place of a key, for messages."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return the bytes of a key, None where it does not exist. Raises CorruptError where they are absurdly many."""

    @abstractmethod
    def get_part(self, key: str, start: int, length: int) -> bytes | None:
        """Return `length` bytes of a key from `start` on, fewer where it ends before; None where it does not exist."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return the length of a key's bytes, None where it does not exist."""

    @abstractmethod
    def modified(self, key: str) -> float | None:
        """Return when a key was last put, in seconds by the clock of the place itself; None where it does not exist."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names directly under a folder ("" is the root), sorted; none where it does not exist."""

    @abstractmethod
    def put(self, key: str, *parts: bytes) -> None:
        """Write or replace a key: all of these bytes, one part behind the other. Nobody ever sees a part of them."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a key that does not exist and flush it; False, and nothing done, where it exists already."""

    @abstractmethod
    def flush(self, keys: Iterable[str]) -> None:
        """Return when these keys will survive a power failure."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key, for good; nothing happens where it does not exist."""

    @abstractmethod
    def prepare(self) -> None:
        """Make sure of being able to write, and clear away what a killed writer left half written."""

    def confirm(self, key: str, read: Callable[[], T], accept: Callable[[T], bool] = is_there) -> T:
        """Return what `read` returns, once it is sure that the place means it.

        Whoever drops, deletes, leaves out or reports something because it is missing or damaged asks in this way. A
        disk is believed at once; an object store may say for a moment that there is no such object, or give other
        bytes, and is asked again.

        key: what is asked about, for the log.
        read: may raise CorruptError, which is doubtful, too.
        accept: whether a result is beyond doubt.
        """
        return read()

    def all_names(self, folder: str) -> set[str]:
        """Return the names directly under a folder, once it is sure that there are no more."""
        return set(self.names(folder))

    def hasty(self) -> "Files":
        """Return the same files with few retries, for callers that prefer an early error to a late result."""
        return self

    def check_size(self, key: str, size: int) -> None:
        """Raise CorruptError where a key is too large for anything that is read whole."""
        if size > MAX_WHOLE:
            raise self.too_large(key)

    def too_large(self, key: str) -> CorruptError:
        """Return the error that a key is too large for anything that is read whole."""
        return CorruptError(
            f"{self.locate(key)} has more than {MAX_WHOLE >> 20:,} MiB, and no file of a cache that is read whole has: "
            "it was altered.",
            "Restore it from a copy.",
        )

    def holds(self, key: str, *parts: bytes) -> bool:
        """Return whether a key has these bytes and no others; no more than a part is read at once."""
        if len(parts) == 1:
            return self.get(key) == parts[0]
        starts = accumulate(map(len, parts), initial=0)
        return self.size(key) == sum(map(len, parts)) and all(
            self.get_part(key, start, len(part)) == part for start, part in zip(starts, parts, strict=False)
        )

    @abstractmethod
    def tidy(self) -> None:
        """Remove everything that a writer left behind and that is not a key."""
