"""The folder of an index: one `.npy` file a column, opened as memory maps, and what the index was made from."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.data import remote
from kdcache.data.places import is_url
from kdcache.errors import DataError
from kdcache.io.json_format import parse_json
from kdcache.io.reading import open_regular, read_bytes, read_rest

FORMAT = 1
"""Version of the folder's layout and of the fingerprint; an index of another version is rebuilt."""

FORMAT_WITH_LOST = 2
"""Version of the layout with lost samples: programs that do not know them must not read it."""

COLUMNS: dict[str, np.dtype] = {
    "key_hash": np.dtype("<u8"),
    "shard": np.dtype("<i4"),
    "offset": np.dtype("<i8"),
    "length": np.dtype("<i8"),
    "height": np.dtype("<i4"),
    "width": np.dtype("<i4"),
    "label": np.dtype("<i4"),
}
"""Columns with one entry per sample, ascending in `key_hash`."""

KEY_START: np.dtype = np.dtype("<i8")
"""Type of the column `key_start` of n + 1 entries: key i is bytes start[i] to start[i+1] of `key_bytes`."""

KEY_BYTES: np.dtype = np.dtype("u1")

CRC: np.dtype = np.dtype("<u4")
"""Type of the column `crc`, which exists after a check of every image: the CRC32C of its bytes."""

LOST: np.dtype = np.dtype("<i8")
"""Type of the column `lost`, which exists if samples are marked as lost: their rows, ascending."""

META = "index.json"

MAX_META = 64 * 2**20
"""Limit of the bytes of an `index.json`, enough for a million shards."""


@dataclass(frozen=True)
class Source:
    """The shards that an index is built from.

    folder: folder that the shards' names are relative to, so that an index moves with its shards; a `str` is a URL.
    shards: name, size in bytes and modification time in nanoseconds of each shard; or its URL, size and ETag.
    """

    folder: Path | str
    shards: tuple[tuple[str, int, int | str], ...]
    unlabelled: bool

    @classmethod
    def of(cls, folder: Path | str, shards: Iterable[str], unlabelled: bool) -> "Source":
        """Return the current state of shards (absolute paths, or URLs). Raises DataError if one cannot be accessed."""
        shards = tuple(shards)
        if is_url(shards[0]):
            states = zip(shards, remote.states_of(shards), strict=True)
            return cls(folder, tuple((url, *state) for url, state in states), unlabelled)
        found = []
        for shard in shards:
            try:
                stat = os.stat(shard)
            except OSError as error:
                raise DataError(
                    f"The shard {shard} cannot be read: {error.strerror}. Restore it or check its permissions."
                ) from error
            found.append((os.path.relpath(shard, folder), stat.st_size, stat.st_mtime_ns))
        return cls(folder, tuple(found), unlabelled)

    @property
    def paths(self) -> tuple[str, ...]:
        """The shards' absolute paths, or their URLs."""
        return tuple(
            name if is_url(name) else os.path.normpath(os.path.join(self.folder, name)) for name, _, _ in self.shards
        )

    def to_json(self) -> dict[str, Any]:
        """Return the part of `index.json` by which a stale index is recognised."""
        return {"unlabelled": self.unlabelled, "shards": [list(shard) for shard in self.shards]}


@dataclass(frozen=True, eq=False)
class Loaded:
    """An open folder of an index: memory maps by column name, and the content of `index.json`.

    left_out: number of bad samples that a check has left out; None without a check, and without the column `crc`.
    lost: rows of samples that have been marked as lost, ascending.
    is_part: whether these are some of the shards' samples.
    """

    columns: dict[str, np.ndarray]
    fingerprint: str
    labels: int
    left_out: int | None
    lost: np.ndarray
    is_part: bool


def load(folder: Path, source: Source) -> Loaded | None:
    """Return the index in `folder` if it is complete and of this format and source; else None. Reads no column.

    All files are opened through one handle of the folder, so that another process that puts a new index in its
    place meanwhile cannot mix the two.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with open_regular(META, folder=handle) as file:
            meta = parse_json(read_rest(file.fileno(), MAX_META, META), max_bytes=MAX_META)
        if meta["format"] not in (FORMAT, FORMAT_WITH_LOST) or meta["source"] != source.to_json():
            return None
        left_out = meta.get("left_out")
        kinds = COLUMNS if left_out is None else {**COLUMNS, "crc": CRC}
        kinds = {**kinds, "key_start": KEY_START, "key_bytes": KEY_BYTES}
        columns = {name: _map(handle, name, dtype) for name, dtype in kinds.items()}
        rows = {**dict.fromkeys(kinds, meta["samples"]), "key_start": meta["samples"] + 1}
        del rows["key_bytes"]
        if any(columns[name].shape != (count,) for name, count in rows.items()):
            return None
        lost = np.empty(0, LOST)
        if meta["format"] == FORMAT_WITH_LOST:
            lost = _map(handle, "lost", LOST)
            if lost.shape != (meta["lost"],) or not 0 <= lost.min() <= lost.max() < meta["samples"]:
                return None
        return Loaded(columns, meta["fingerprint"], meta["labels"], left_out, lost, "part" in meta)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None  # damaged or half deleted: it is rebuilt
    finally:
        os.close(handle)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of `index.json`, of any shards and format; empty if it cannot be read."""
    try:
        meta = parse_json(read_bytes(folder / META, MAX_META), max_bytes=MAX_META)
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _map(handle: int, name: str, expected: np.dtype) -> np.ndarray:
    with open_regular(f"{name}.npy", folder=handle) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name}.npy has version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != expected:
            raise ValueError(f"{name}.npy holds {dtype}")
        mapped = np.memmap(file, dtype, mode="r", offset=file.tell(), shape=shape)
    return np.asarray(mapped)


def save(folder: Path, name: str, dtype: np.dtype, parts: Iterable[np.ndarray], rows: int) -> None:
    """Write the column `name` of `rows` entries, given in parts."""
    with open(folder / f"{name}.npy", "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)
