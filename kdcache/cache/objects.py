"""A cache's files in an object store, or wherever else obstore gets by a URL.

A put is whole or not there, and kept when it returns: nothing is seen half written, and there is nothing to flush. A
put that must not replace anything is a conditional put, which S3 (since 2024), GCS and Azure have. Parts of a large put
whose process died stay in the store, unseen, until a rule of the bucket removes them.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from kdcache.cache.durable import PARTIAL
from kdcache.cache.files import Files, is_there
from kdcache.errors import CacheError, CorruptError, UnreadableError
from kdcache.io.object_retry import RetryPolicy
from kdcache.io.object_store import SETTINGS, ObjectState, ObjectStore, StoreError

T = TypeVar("T")

#: Claims and trials that are older than this belong to nobody.
LEFT_OVER = timedelta(days=1)

#: Seconds for which a request is tried again by whoever cannot wait.
HASTY_LIMIT = 1.0


class ObjectFiles(Files):
    """Keys are objects below a URL such as `s3://bucket/path`."""

    may_lose = False
    #: What a user can check when a request fails.
    settings = SETTINGS

    def __init__(self, url: str, *, read_only: bool = False, policy: RetryPolicy | None = None) -> None:
        """policy: how long what fails is tried again; that of the environment where it is None."""
        self.url = url.rstrip("/")
        self.read_only = read_only
        with self._named("open", ""):
            self._store = ObjectStore(self.url, policy)

    def locate(self, key: str) -> str:
        """Return the object's URL."""
        return f"{self.url}/{key}" if key else self.url

    def get(self, key: str) -> bytes | None:
        """Return the bytes of an object, None where there is none."""
        with self._named("read", key):
            return self._store.get(key, partial(self.check_size, key))

    def get_part(self, key: str, start: int, length: int) -> bytes | None:
        """Return some bytes of an object, None where there is none."""
        with self._named("read", key):
            return self._store.get_range(key, start, length)

    def size(self, key: str) -> int | None:
        """Return the length of an object, None where there is none."""
        found = self._state(key)
        return None if found is None else found.size

    def modified(self, key: str) -> float | None:
        """Return when an object was last put, in whole seconds by the store's clock; None where there is none."""
        found = self._state(key)
        return None if found is None else found.modified.timestamp()

    def names(self, folder: str) -> list[str]:
        """Return the names directly under a prefix, sorted."""
        with self._named("read", folder):
            objects, folders = self._store.names(folder)
        return sorted({*objects, *folders})

    def put(self, key: str, *parts: bytes) -> None:
        """Put an object, over what is there; a large one in several requests, and nothing is seen before the last."""
        with self._named("write", key):
            self._store.put(key, *parts)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put an object on the condition that there is none."""
        with self._named("write", key):
            return self._store.put_if_absent(key, data)

    def flush(self, keys: Iterable[str]) -> None:
        """Do nothing: what was put is kept."""

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._named("write", key):
            self._store.delete(key)

    def prepare(self) -> None:
        """Put an object and remove it again, and remove the claims of those who died long ago."""
        trial = f"{PARTIAL}/trial-{uuid.uuid4().hex}"
        self.put(trial, b"")
        self.delete(trial)
        with self._named("write", PARTIAL):
            for state in self._store.states(PARTIAL):
                if state.modified < datetime.now(UTC) - LEFT_OVER:
                    self._store.delete(state.key)

    def tidy(self) -> None:
        """Do nothing: there are no partial objects."""

    def confirm(self, key: str, read: Callable[[], T], accept: Callable[[T], bool] = is_there) -> T:
        """Ask again, a few times over one to two seconds, before what is missing or damaged is taken to be so."""
        return self._store.confirmed(key, read, accept, _is_damage)

    def all_names(self, folder: str) -> set[str]:
        """Return the names of several listings over one to two seconds."""
        seen: set[str] = set()

        def look() -> bool:
            seen.update(self.names(folder))
            return False

        self._store.confirmed(folder, look, bool, _is_damage)
        return seen

    def hasty(self) -> "ObjectFiles":
        """Return the same files, but try what fails again for a second at most."""
        limit = min(HASTY_LIMIT, self._store.policy.limit)
        return ObjectFiles(self.url, read_only=self.read_only, policy=replace(self._store.policy, limit=limit))

    def _state(self, key: str) -> ObjectState | None:
        with self._named("read", key):
            return self._store.head(key)

    @contextmanager
    def _named(self, verb: str, key: str) -> Iterator[None]:
        """Turn an error of the store's into one that names the place."""
        if verb == "write" and self.read_only:
            raise CacheError(f"The cache {self.url} was opened for reading and cannot be changed.")
        try:
            yield
        except StoreError as error:
            raise (CacheError if verb == "write" else UnreadableError)(
                f"Cannot {verb} {self.locate(key)}: {error}. Nothing that is recorded is lost: check {self.settings}, "
                "then run the same command again."
            ) from error


def _is_damage(error: BaseException) -> bool:
    return isinstance(error, CorruptError)
