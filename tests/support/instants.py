"""What is left of a cache when a process dies, or the power fails, just before any one of its operations.

Nothing is stopped: one run goes through, and before each operation it is noted what lies there. That is all that a
kill leaves, whatever the process had in memory, whatever it would have tidied, and none of its locks. The next start
is then made from each.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from kdcache.cache.claims import BeatingClaims
from kdcache.io.disk import Disk
from kdcache.io.folders import Folder
from kdcache.io.object_retry import PAUSE_VARIABLE
from support.disks import WatchedDisk

#: The URL of a cache in an object store in memory.
MEMORY = "memory:///cache"

#: Names of partial files, which are others in each run.
RANDOM_NAME = re.compile(r"[0-9a-f]{32}$")


@dataclass(frozen=True)
class Instant:
    """What may lie there at the next start.

    Attributes:
        where: before which operation, and whether the power failed.
        files: bytes by key; None for a folder.
        done: the work that had been done, as whoever watches counts it.
    """

    where: str
    files: dict[str, bytes | None]
    done: int

    def lay_out(self, folder: Path) -> Path:
        """Put it all into a folder, which it gives."""
        for key, data in sorted(self.files.items()):
            path = folder / key
            if data is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return folder


class Instants:
    """All that are worth a start of their own: of those that left the same, the one by which most work was done.

    Attributes:
        operations: that were made, such as "put zarr.json".
    """

    def __init__(self, work: Callable[[], int] = lambda: 0) -> None:
        self._work = work
        self._found: dict[frozenset[tuple[str, bytes | None]], Instant] = {}
        self.operations: list[str] = []

    def __iter__(self) -> Iterator[Instant]:
        return iter(self._found.values())

    def note(self, operation: str, *left: dict[str, bytes | None]) -> None:
        """Before an operation, of what may be left then: by a kill, and by a power failure where that leaves less."""
        for files, how in zip(left, ("", ", power lost"), strict=False):
            alike = frozenset((RANDOM_NAME.sub("?", key), data) for key, data in files.items())
            where = f"before operation {len(self.operations)}, {operation}{how}"
            self._found[alike] = Instant(where, files, self._work())
        self.operations.append(operation)


class NotingDisk(WatchedDisk):
    """Notes before each operation what a kill would leave of the cache at `root`, and what a power failure would."""

    def __init__(self, root: Path, instants: Instants) -> None:
        super().__init__()
        self._root, self._instants = root, instants

    def _begin(self, name: str, path: Path) -> None:
        super()._begin(name, path)
        paths = list(self._root.rglob("*"))
        folders: dict[str, bytes | None] = {self._key(found): None for found in paths if found.is_dir()}
        files = {found: found.read_bytes() for found in paths if found.is_file()}
        left = self.without_unflushed(self._root, files)
        self._instants.note(
            f"{name} {self._key(path)}",
            folders | {self._key(found): data for found, data in files.items()},
            folders | {self._key(found): data for found, data in left.items()},
        )

    def _key(self, path: Path) -> str:
        return os.path.relpath(path, self._root)


class HastyDisk(Disk):
    """Flushes nothing, which only a power failure would tell."""

    def flush(self, file: int) -> None:
        pass

    def flush_folder(self, folder: Folder) -> None:
        pass


@contextmanager
def noting_folder(root: Path, instants: Instants) -> Iterator[None]:
    """Whatever is written to a local disk meanwhile belongs to the cache at `root`, and is noted."""
    with on_disk(NotingDisk(root, instants)):
        yield


@contextmanager
def on_disk(disk: Disk) -> Iterator[None]:
    """Whatever is written to a local disk meanwhile is written to this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.cache.durable.Disk", lambda: disk)
        yield


class Bucket:
    """An object store in memory, as `kdcache.io.object_store` calls obstore.

    Attributes:
        before: is told of each put and delete before it is made.
    """

    def __init__(self, objects: dict[str, bytes | None] | None = None) -> None:
        self.store = MemoryStore()
        self.before: Callable[[str], None] = lambda operation: None
        for key, data in (objects or {}).items():
            assert data is not None, "there are no folders"
            obstore.put(self.store, key, data)

    def objects(self) -> dict[str, bytes]:
        """Every object by its key."""
        keys = [entry["path"] for page in obstore.list(self.store) for entry in page]
        return {key: bytes(obstore.get(self.store, key).bytes()) for key in sorted(keys)}

    def put(self, store: MemoryStore, key: str, data: Any, **choice: Any) -> None:
        self.before(f"put {key}")
        obstore.put(store, key, data, **choice)

    def delete(self, store: MemoryStore, key: str) -> None:
        self.before(f"delete {key}")
        obstore.delete(store, key)


@contextmanager
def in_bucket(bucket: Bucket) -> Iterator[None]:
    """`MEMORY` is in this bucket meanwhile, where a claim is taken for a dead process's at once."""
    reading = {name: getattr(obstore, name) for name in ("get", "get_range", "head", "list", "list_with_delimiter")}
    with pytest.MonkeyPatch.context() as patch:
        calls = SimpleNamespace(put=bucket.put, delete=bucket.delete, **reading)
        patch.setattr("kdcache.io.object_store.obstore", calls)
        patch.setattr("kdcache.io.object_store.from_url", lambda url, **settings: bucket.store)
        patch.setenv(PAUSE_VARIABLE, "0.0001")
        patch.setattr("kdcache.cache.store.open_claims", lambda files: BeatingClaims(files, lease_timeout=0.0))
        patch.setattr("kdcache.cache.held_store.BeatingClaims", lambda files: BeatingClaims(files, lease_timeout=0.0))
        yield


@contextmanager
def noting_bucket(bucket: Bucket, instants: Instants) -> Iterator[None]:
    """What a kill leaves in a bucket, which no power failure changes, is noted."""

    def note(operation: str) -> None:
        instants.note(operation, dict(bucket.objects()))

    bucket.before = note
    with in_bucket(bucket):
        yield
