"""A cache's files in an object store, or wherever else obstore gets by a URL.

A put is whole or not there, and kept when it returns: nothing is seen half written, and there is nothing to flush. A
put that must not replace anything is a conditional put, which S3 (since 2024), GCS and Azure have. Parts of a large put
whose process died stay in the store, unseen, until a rule of the bucket removes them.
"""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import obstore
from obstore.exceptions import AlreadyExistsError

from kdcache.cache.durable import PARTIAL
from kdcache.cache.files import Files
from kdcache.errors import CacheError
from kdcache.object_store import FAILURES, MISSING, SETTINGS, cause, open_store

#: Bytes that are not put with one request.
LARGE = 64 * 2**20

#: Claims and trials that are older than this belong to nobody.
LEFT_OVER = timedelta(days=1)


class ObjectFiles(Files):
    """Keys are objects below a URL such as `s3://bucket/path`."""

    may_lose = False

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url.rstrip("/")
        self.read_only = read_only
        with self._named("open", ""):
            self._store = open_store(self.url)

    def locate(self, key: str) -> str:
        """The object's URL."""
        return f"{self.url}/{key}" if key else self.url

    def get(self, key: str) -> bytes | None:
        """The bytes of an object, None where there is none."""
        with self._named("read", key), suppress(*MISSING):
            found = obstore.get(self._store, key)
            self.check_size(key, found.meta["size"])
            return bytes(found.bytes())
        return None

    def get_part(self, key: str, start: int, length: int) -> bytes | None:
        """Some bytes of an object, None where there is none."""
        if not length:
            return b"" if self.size(key) is not None else None
        with self._named("read", key), suppress(*MISSING):
            try:
                return bytes(obstore.get_range(self._store, key, start=start, length=length))
            except FAILURES:
                size = self.size(key)
                if size is None or start < size:
                    raise
                return b""  # which stores call an error
        return None

    def size(self, key: str) -> int | None:
        """The length of an object, None where there is none."""
        with self._named("read", key), suppress(*MISSING):
            return int(obstore.head(self._store, key)["size"])
        return None

    def modified(self, key: str) -> float | None:
        """When an object was last put, in whole seconds by the store's clock; None where there is none."""
        with self._named("read", key), suppress(*MISSING):
            return float(obstore.head(self._store, key)["last_modified"].timestamp())
        return None

    def names(self, folder: str) -> list[str]:
        """The names directly under a prefix, sorted."""
        with self._named("read", folder):
            found = obstore.list_with_delimiter(self._store, folder or None)
        paths = [*(entry["path"] for entry in found["objects"]), *found["common_prefixes"]]
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths})

    def put(self, key: str, *parts: bytes) -> None:
        """Put an object, over what is there; a large one in several requests, and nothing is seen before the last."""
        large = sum(map(len, parts)) > LARGE
        with self._named("write", key):
            obstore.put(self._store, key, b"".join(parts) if not large else iter(parts), use_multipart=large)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """A conditional put."""
        with self._named("write", key), suppress(AlreadyExistsError, FileExistsError):
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
            return True
        return False

    def flush(self, keys: Iterable[str]) -> None:
        """Nothing: what was put is kept."""

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._named("write", key), suppress(*MISSING):
            obstore.delete(self._store, key)

    def prepare(self) -> None:
        """Put an object and remove it again, and remove the claims of those who died long ago."""
        trial = f"{PARTIAL}/trial-{uuid.uuid4().hex}"
        self.put(trial, b"")
        self.delete(trial)
        with self._named("write", PARTIAL):
            for page in obstore.list(self._store, PARTIAL):
                for entry in page:
                    if entry["last_modified"] < datetime.now(UTC) - LEFT_OVER:
                        obstore.delete(self._store, entry["path"])

    def tidy(self) -> None:
        """Nothing: there are no partial objects."""

    @contextmanager
    def _named(self, verb: str, key: str) -> Iterator[None]:
        """Turn an error of the store's into one that names the place."""
        if verb == "write" and self.read_only:
            raise CacheError(f"The cache {self.url} was opened for reading and cannot be changed.")
        try:
            yield
        except FAILURES as error:
            raise CacheError(
                f"Cannot {verb} {self.locate(key)}: {cause(error)}. Nothing that is recorded is lost: check "
                f"{SETTINGS}, then run the same command again."
            ) from error
