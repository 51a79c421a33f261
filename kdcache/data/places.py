"""The folder of the index of some shards, and writing an index there."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcache.errors import DataError
from kdcache.io.atomic import new_folder, tidy
from kdcache.io.failures import cannot_write, passing_remedy
from kdcache.io.folder_lock import FolderLock, hold_beside
from kdcache.runtime.progress import Progress

#: Files in the folder of an index; a folder that holds anything else is not replaced.
_FILES = re.compile(r"[a-z_]+\.(npy|spool)|(index|classes)\.json|whole|replaced")


def is_url(place: str | Path) -> bool:
    """Return whether a shard, a folder or DATA is named by a URL such as `s3://bucket/train`."""
    return "://" in str(place)


def is_pattern(data: str | Path) -> bool:
    """Return whether webdataset expands DATA to other names."""
    return any(mark in str(data) for mark in ("{", "::", "$"))


def is_folder(data: str | Path) -> bool:
    """Return whether DATA is a folder. A URL is judged by its name, because object stores have no folders."""
    if is_url(data):
        return not is_pattern(data) and not str(data).endswith(".tar")
    return os.path.isdir(data)


def shards_folder(data: str | Path, shards: Sequence[str]) -> Path | str:
    """Return the folder DATA, or the deepest one that holds all of the pattern's shards; a `str` is a URL."""
    if is_folder(data):
        return str(data).rstrip("/") if is_url(data) else Path(os.path.abspath(data))
    if is_url(shards[0]):
        scheme = shards[0].partition("://")[0]
        return f"{scheme}://" + os.path.commonpath([os.path.dirname(shard.partition("://")[2]) for shard in shards])
    return Path(os.path.commonpath([os.path.dirname(shard) for shard in shards]))


def index_places(data: str | Path, shards: Sequence[str], unlabelled: bool) -> tuple[Path, ...]:
    """Return the possible folders of the index of DATA: beside its shards, else among the user's cached files.

    The index of a pattern carries a hash of the shards that the pattern names, so that patterns share a folder. That
    of URLs lies among the user's cached files alone: it is mapped into memory.
    """
    folder = shards_folder(data, shards)
    name = "kdcache-index"
    if not is_folder(data):
        names = shards if isinstance(folder, str) else [os.path.relpath(shard, folder) for shard in shards]
        name += "-" + _hash("\0".join(names))
    if unlabelled:
        name += "-unlabelled"
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcache"
    place = cached / f"{os.path.basename(folder)}-{_hash(str(folder))}" / name
    return (place,) if isinstance(folder, str) else (folder / name, place)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


@contextmanager
def building(place: Path) -> Iterator[Path]:
    """Yield an empty folder, which becomes `place` at the end and is removed after an error."""
    try:
        with new_folder(place.parent, place.name, _FILES) as folder:
            yield folder
    except OSError as error:
        raise DataError(cannot_write(f"the index {place}", error, "What was there before is whole")) from error


@contextmanager
def claimed(places: Sequence[Path], progress: Progress, *, wait: bool) -> Iterator[Path]:
    """Yield the first of the places that can be written, and hold it within the block.

    Files of killed builds are removed.

    wait: whether to wait for another process that builds an index there; else raise.

    Raises:
        FolderHeldError: another process holds the place, and is not waited for.
        DataError: no place can be written.
    """
    lock, place = _hold(places, progress, wait)
    with lock:
        with suppress(OSError):
            tidy(place.parent, of=place.name)
        yield place


def _hold(places: Sequence[Path], progress: Progress, wait: bool) -> tuple[FolderLock, Path]:
    reasons, later = [], None
    for place in places:
        try:
            return hold_index(place, progress, wait=wait), place
        except OSError as error:
            reasons.append(f"{place.parent} ({error.strerror})")
            later = later or passing_remedy(error)
    remedy = "Make one of them writable, or set XDG_CACHE_HOME to a folder that is."
    if later is not None:
        remedy = f"What was there before is whole: {later}"
    raise DataError(f"The index can be written neither to {' nor to '.join(reasons)}. {remedy}")


def hold_index(place: Path, progress: Progress, *, wait: bool = False) -> FolderLock:
    """Hold the folder of an index, which may not exist yet, as `hold_beside` does."""
    remedy = "Wait until it has ended, then run the same command again."
    return hold_beside(place, f"The index {place}", remedy, progress.say, wait=wait)
