"""The window of each sample, as a cache keeps it: an array of its own, in a few chunks.

The view set names the checksum of them all, so that what is read is right, and what is lost can be put back by whoever
has the same windows.
"""

from functools import partial

import numpy as np
from jaxtyping import Int32

from kdcache.cache.files import Files
from kdcache.cache.identity import ViewSetIdentity, windows_checksum
from kdcache.cache.zarr_form import META, ZarrChunk, array_metadata
from kdcache.errors import CorruptError
from kdcache.targets.base import ArraySpec

#: Window ids in a chunk of their array.
WINDOWS_CHUNK = 2**22

#: The key of the array's metadata.
WINDOWS_META = f"windows/{META}"

_REMEDY = (
    "Run the same dump-logits again, which writes them anew where the shards lie as they did when the cache was made; "
    "or restore the file from a copy, of which any that `kdcache cache copy` made will do."
)


def windows_metadata(samples: int) -> bytes:
    """Return the zarr.json of the array."""
    spec = _chunk_codec(samples).spec
    return array_metadata(spec, (samples,), spec.shape)


def windows_keys(samples: int) -> list[str]:
    """Return the keys of its chunks."""
    return [f"windows/c/{number}" for number in range(-(-samples // WINDOWS_CHUNK))]


def write_windows(files: Files, windows: Int32[np.ndarray, " n"]) -> list[str]:
    """Put the chunks; returns their keys, which are not flushed yet."""
    chunk_codec, keys = _chunk_codec(len(windows)), windows_keys(len(windows))
    for key, start in zip(keys, range(0, len(windows), WINDOWS_CHUNK), strict=True):
        part = np.zeros(chunk_codec.spec.shape, np.int32)
        part[: len(windows) - start] = windows[start : start + WINDOWS_CHUNK]
        files.put(key, chunk_codec.encode(part))
    return keys


def read_windows(files: Files, view_set: ViewSetIdentity) -> Int32[np.ndarray, " n"]:
    """Return the window of each sample. Raises CorruptError where they are not those of the view set."""
    return files.confirm("windows", partial(_read_windows, files, view_set))


def _read_windows(files: Files, view_set: ViewSetIdentity) -> Int32[np.ndarray, " n"]:
    chunk_codec = _chunk_codec(view_set.samples)
    parts = []
    for key in windows_keys(view_set.samples):
        data = files.get(key)
        if data is None:
            raise CorruptError(f"{files.locate(key)} is missing. {_REMEDY}")
        try:
            parts.append(chunk_codec.decode(data))
        except CorruptError as error:
            raise CorruptError(f"{files.locate(key)} was altered: {error} {_REMEDY}") from error
    windows = np.concatenate(parts)[: view_set.samples]
    if windows_checksum(windows) != view_set.windows:
        raise CorruptError(f"{files.locate('windows')} was altered: its checksum does not fit. {_REMEDY}")
    return windows


def restore_windows(files: Files, view_set: ViewSetIdentity, windows: Int32[np.ndarray, " n"]) -> None:
    """Write the windows where those that are stored cannot be read; `windows` must be those of the view set."""
    try:
        read_windows(files, view_set)
    except CorruptError:
        if windows_checksum(windows) != view_set.windows:
            raise
        files.flush(write_windows(files, windows))
        files.tidy()


def _chunk_codec(samples: int) -> ZarrChunk:
    return ZarrChunk(ArraySpec("int32", (min(samples, WINDOWS_CHUNK),), shuffle="shuffle"))
