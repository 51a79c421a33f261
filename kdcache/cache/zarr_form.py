"""What Zarr makes of arrays and groups: their metadata, and the bytes of their chunks. Only this module imports it.

Zarr is asked for the bytes of a chunk and for what they mean, never to read or write them: so every byte that is read
is checked against a record first, a missing chunk is an error instead of the fill value, and writes are flushed in
order.
"""

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from kdcache.cache.chunk_codec import ChunkCodec
from kdcache.cache.identity import unseal
from kdcache.cache.record import CHECKSUM_BYTES, Stored
from kdcache.errors import CacheError, CorruptError
from kdcache.io.json_format import parse_json
from kdcache.targets.base import ArraySpec, TargetCodec, Targets

# c-blosc with several threads does not always write the same bytes.
numcodecs.blosc.use_threads = False

META = "zarr.json"
#: The attribute of a group in which everything of kdcache's stands.
OURS = "kdcache"
#: What a zarr.json need not say where it is empty.
MAY_BE_LEFT_OUT = {"attributes", "consolidated_metadata", "dimension_names", "storage_transformers"}
#: Of a buffer of Blosc's: versions and flags, length when decoded, length of a block (passed over), and own length.
BLOSC_HEADER = struct.Struct("<IIxxxxI")


class ZarrChunk(ChunkCodec):
    """One chunk of an array, to the bytes that Zarr keeps of it and back: an array in memory of this one chunk."""

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        self._held: dict[str, Any] = {}
        self._array: zarr.Array[Any] | None = None  # made when it is needed: reading a cache does without
        self._key = "/".join(["c", *"0" * len(spec.shape)])
        self._lock = Lock()

    @property
    def most_bytes(self) -> int:
        """The number of bytes that no chunk exceeds.

        What cannot be compressed is stored as it is, behind Blosc's header and before the checksum.
        """
        return BLOSC_HEADER.size + self.spec.nbytes + CHECKSUM_BYTES

    def encode(self, values: np.ndarray) -> bytes:
        """Compress a chunk; the same values always give the same bytes."""
        with self._lock:
            if self._array is None:
                self._array = _make_array(self._held, self.spec, self.spec.shape, self.spec.shape)
            self._array[...] = values
            return self._held.pop(self._key).to_bytes()

    def decode(self, data: bytes) -> np.ndarray:
        """Decompress a chunk. Raises CorruptError where the bytes cannot be decoded.

        Done without the array, which would copy streams that are padding for the most part: a fifth of the time.
        """
        body, length = memoryview(data)[:-CHECKSUM_BYTES], self.spec.nbytes
        if Stored.of(data).crc32c.to_bytes(CHECKSUM_BYTES, "little") != data[-CHECKSUM_BYTES:]:
            raise CorruptError("A chunk cannot be decoded: its checksum does not fit.")
        if len(body) < BLOSC_HEADER.size or BLOSC_HEADER.unpack_from(body)[1:] != (length, len(body)):
            raise CorruptError(f"A chunk cannot be decoded: it does not say that it has {length} bytes.")
        values = np.empty(length, np.uint8)
        try:
            numcodecs.Blosc().decode(body, values)
        except Exception as error:  # whatever the codec makes of bytes that are not its own
            raise CorruptError(f"A chunk cannot be decoded: {error}") from error
        return values.view(np.dtype(self.spec.dtype).newbyteorder("<")).reshape(self.spec.shape)


def is_metadata(stored: bytes, expected: bytes) -> bool:
    """Return whether a zarr.json says what is expected, and has no byte that says nothing.

    It may be one of another version of Zarr, which orders it otherwise or writes out what need not be said.
    """
    if stored == expected:
        return True
    try:
        in_form = json.dumps(parse_json(stored), indent=2).encode() == stored
        return in_form and _filled_fields(stored) == _filled_fields(expected)
    except (ValueError, AttributeError):
        return False


def _filled_fields(meta: bytes) -> dict[str, Any]:
    return {name: value for name, value in parse_json(meta).items() if value or name not in MAY_BE_LEFT_OUT}


def encoded_bytes(codec: TargetCodec, targets: Targets) -> dict[str, int]:
    """Return the bytes that targets would take as one chunk, by array; nothing is written."""
    encoded = codec.encode(targets, len(targets))
    return {name: len(ZarrChunk(spec).encode(encoded[name])) for name, spec in codec.arrays(len(targets)).items()}


@lru_cache(maxsize=256)
def array_metadata(
    spec: ArraySpec, shape: tuple[int, ...], chunks: tuple[int, ...], files: tuple[int, ...] | None = None
) -> bytes:
    """Return the zarr.json of an array; `files` is the shape of what lies in one file, where that is several chunks."""
    held: dict[str, Any] = {}
    _make_array(held, spec, shape, chunks, files)
    return held[META].to_bytes()


def _make_array(
    held: dict[str, Any],
    spec: ArraySpec,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    files: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """Return an array in `held`, of core codecs only, so that any Zarr v3 library can read it."""
    itemsize = np.dtype(spec.dtype).itemsize
    return zarr.create_array(
        MemoryStore(held),
        shape=shape,
        chunks=chunks,
        shards=files,
        dtype=spec.dtype,
        fill_value=0,
        filters=None,
        serializer=BytesCodec(endian="little" if itemsize > 1 else None),
        compressors=[
            BloscCodec(typesize=itemsize, cname="zstd", clevel=spec.effort, shuffle=spec.shuffle),
            Crc32cCodec(),
        ],
        config={"write_empty_chunks": True},  # else a chunk of zeros would not be written
    )


def require_array(stored: bytes, expected: bytes, where: str) -> None:
    """Raise CorruptError unless the two describe the same array, as Zarr understands them."""
    try:
        same = stored == expected or _meta_dict(stored) == _meta_dict(expected)
    except Exception:  # whatever Zarr makes of metadata that is none
        same = False
    if not same:
        raise CorruptError(
            f"{where} does not describe the array that belongs there. `kdcache verify --repair` writes it again."
        )


def _meta_dict(meta: bytes) -> dict[str, Any]:
    parse_json(meta)  # within its limits: Zarr has none
    return dict(zarr.open(MemoryStore(_held(meta)), mode="r").metadata.to_dict())


def group_metadata(attributes: Mapping[str, Any]) -> bytes:
    held: dict[str, Any] = {}
    zarr.create_group(MemoryStore(held), attributes=dict(attributes))
    return held[META].to_bytes()


def group_content(meta: bytes, where: str) -> dict[str, Any]:
    """Return what is sealed in a group's attributes. Raises CacheError where nothing is."""
    try:
        parse_json(meta)  # within its limits: Zarr has none
        attributes = zarr.open_group(MemoryStore(_held(meta)), mode="r").attrs.asdict()
    except Exception as error:  # whatever Zarr makes of metadata that is none
        raise CacheError(f"{where} is no group of Zarr v3; this is no kdcache cache, or it is damaged.") from error
    return unseal(attributes.get(OURS), where)


def _held(meta: bytes) -> dict[str, Any]:
    """Return the contents of a store in memory that has this metadata and nothing else."""
    return {META: _buffer(meta)}


def _buffer(data: bytes) -> Any:
    return default_buffer_prototype().buffer.from_bytes(data)
