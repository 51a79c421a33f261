"""A cache: a Zarr v3 group of a view set's windows and the answers of its teachers.

    zarr.json                          group; its attribute `kdcache` is the view set
    windows/                           int32 [samples], the window of each sample
    teachers/NAME/zarr.json            group; its attribute `kdcache` is the teacher's identity
    teachers/NAME/ARRAY/               [view, ...], one chunk for each chunk of rows
    teachers/NAME/records/VIEW/BLOCK.json

Zarr is asked for the bytes of a chunk and for what they mean, never to read or write them: so every byte
that is read is checked against a record first, a missing chunk is an error instead of the fill value, and
writes are flushed in order.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numcodecs.blosc
import numpy as np
import zarr
from jaxtyping import Int32
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from kdcache.cache.claims import Claims, open_claims
from kdcache.cache.durable import PARTIAL, LocalFiles
from kdcache.cache.entry import ChunkCodec, Entry
from kdcache.cache.files import Files
from kdcache.cache.identity import (
    FORMAT,
    TEACHER_NAME,
    TeacherIdentity,
    ViewSetIdentity,
    require_same,
    seal,
    unseal,
    windows_checksum,
)
from kdcache.cache.layout import VIEW_CAPACITY, teacher_key
from kdcache.errors import CacheError, CorruptError, UsageError
from kdcache.targets.base import ArraySpec, Coding, Targets
from kdcache.targets.kinds import make_coding

# c-blosc with several threads does not always write the same bytes.
numcodecs.blosc.use_threads = False

META = "zarr.json"
#: The attribute of a group in which everything of kdcache's stands.
OURS = "kdcache"
#: Window ids in a chunk of their array.
WINDOWS_CHUNK = 2**22


class Cache:
    """A cache that exists; `Cache.open` and `Cache.create` make one."""

    def __init__(self, files: Files, view_set: ViewSetIdentity) -> None:
        self.view_set = view_set
        self._files = files

    @staticmethod
    def exists(path: str | Path, *, files: Files | None = None) -> bool:
        """Whether a whole cache is there (of whatever identity)."""
        return (files or LocalFiles(path)).size(META) is not None

    @classmethod
    def create(
        cls,
        path: str | Path,
        view_set: ViewSetIdentity,
        windows: Int32[np.ndarray, " n"],
        *,
        files: Files | None = None,
    ) -> "Cache":
        """Make an empty cache and open it for writing.

        Raises CacheError where there is something else already or nothing can be written. What a creation
        left that was killed is completed. `files` are another place for the bytes than the folder `path`.
        """
        files = files or LocalFiles(path)
        if windows.shape != (view_set.samples,) or windows_checksum(windows) != view_set.windows:
            raise CacheError("The windows are not those of the view set.")
        foreign = sorted(set(files.names("")) - {PARTIAL, "windows", "teachers"})
        if foreign:
            raise CacheError(
                f"{files.locate('')} is {'a cache already' if META in foreign else 'not empty'} "
                f"(it holds {foreign[0]}); use another folder."
            )
        files.prepare()
        codec = _windows_codec(view_set.samples)
        keys = ["windows/" + META, "teachers/" + META]
        for number, start in enumerate(range(0, view_set.samples, WINDOWS_CHUNK)):
            part = np.zeros(codec.spec.shape, np.int32)
            part[: len(windows) - start] = windows[start : start + WINDOWS_CHUNK]
            keys.append(f"windows/c/{number}")
            files.put(keys[-1], codec.encode(part))
        files.put(keys[0], _array_meta(codec.spec, (view_set.samples,), codec.spec.shape))
        files.put(keys[1], _group_meta({}))
        files.flush(keys)
        if not files.put_if_absent(META, _group_meta({OURS: seal(view_set.to_json())})):
            raise CacheError(f"Another process made a cache in {files.locate('')} meanwhile; start again.")
        files.tidy()
        return cls(files, view_set)

    @classmethod
    def ensure(
        cls,
        path: str | Path,
        view_set: ViewSetIdentity,
        windows: Int32[np.ndarray, " n"],
        *,
        files: Files | None = None,
    ) -> "Cache":
        """Open the cache of this view set for writing, made where there is none; several processes may do so at once.

        Raises IdentityError where a cache of another view set is there, CacheError as `create` and `open` do.
        """
        if not cls.exists(path, files=files):
            try:
                return cls.create(path, view_set, windows, files=files)
            except CacheError:
                if not cls.exists(path, files=files):
                    raise  # else another process was faster
        cache = cls.open(path, read_only=False, files=files)
        require_same(cache.view_set, view_set, f"The cache {cache.location}")
        return cache

    @classmethod
    def open(cls, path: str | Path, read_only: bool = True, *, files: Files | None = None) -> "Cache":
        """Open a cache. Raises CacheError where there is none, or none that this version can read or write."""
        files = files or LocalFiles(path, read_only=read_only)
        place = files.locate("")
        data = files.get(META)
        if data is None:
            raise CacheError(f"There is no cache at {place}. Make one with kdcache dump-logits, or check --cache.")
        content = _group_content(data, files.locate(META))
        version = content.get("format")
        if type(version) is int and version > FORMAT:
            raise CacheError(
                f"The cache {place} has format {version}, and this version of kdcache reads formats up to {FORMAT}. "
                "Update kdcache."
            )
        view_set = ViewSetIdentity.from_json(content, files.locate(META))
        if not files.read_only:
            files.prepare()
        return cls(files, view_set)

    @property
    def location(self) -> str:
        """Where the cache lies, for messages."""
        return self._files.locate("")

    @property
    def windows(self) -> Int32[np.ndarray, " n"]:
        """The window of each sample. Raises CorruptError where they are not those of the view set."""
        codec = _windows_codec(self.view_set.samples)
        parts = []
        for number in range(-(-self.view_set.samples // WINDOWS_CHUNK)):
            data = self._files.get(f"windows/c/{number}")
            if data is None:
                raise CorruptError(f"{self._files.locate(f'windows/c/{number}')} is missing; restore it from a copy.")
            parts.append(codec.decode(data))
        windows = np.concatenate(parts)[: self.view_set.samples]
        if windows_checksum(windows) != self.view_set.windows:
            raise CorruptError(f"{self._files.locate('windows')} was altered; restore it from a copy.")
        return windows

    def claims(self) -> Claims:
        """Claims on blocks of this cache, which keep processes that write it out of each other's way."""
        return open_claims(self._files)

    def teachers(self) -> dict[str, TeacherIdentity]:
        """The identity of each teacher, by name."""
        names = [name for name in self._files.names("teachers") if name != META]
        found = {name: self._teacher(name) for name in names}
        return {name: identity for name, identity in found.items() if identity is not None}

    def entry(self, name: str) -> Entry:
        """A teacher's entry. Raises CacheError where there is none of that name."""
        identity = self._teacher(name)
        if identity is None:
            there = ", ".join(self.teachers()) or "none yet"
            raise CacheError(f"The cache {self._files.locate('')} has no teacher '{name}' (there is: {there}).")
        where = self._files.locate(f"{teacher_key(name)}/{META}")
        if identity.name != name:
            raise CorruptError(f"{where} is the entry of teacher '{identity.name}'; rename its folder to that.")
        try:
            targets = dict(identity.targets)
            coding = make_coding(targets.pop("kind", ""), identity.num_classes, **targets)
        except UsageError as error:
            raise CacheError(f"{where} names targets that this version of kdcache does not know: {error}") from error
        return self._entry(identity, coding)

    def add_teacher(self, identity: TeacherIdentity, coding: Coding) -> Entry:
        """The entry of this teacher, made where there is none of its name.

        Raises IdentityError where a teacher of that name differs in any field.
        """
        if identity.targets != coding.identity() or identity.num_classes != coding.num_classes:
            raise CacheError("The coding is not the one that the teacher's identity names.")
        folder = teacher_key(identity.name)
        if self._teacher(identity.name) is None:
            if set(self._files.names(f"{folder}/records")) - {META}:
                raise CorruptError(f"{self._files.locate(folder)} has lost its {META}; restore it from a copy.")
            # Identity first: it settles which of two processes makes an entry of this name.
            self._files.put_if_absent(f"{folder}/{META}", _group_meta({OURS: seal(identity.to_json())}))
        stored = self._teacher(identity.name)
        assert stored is not None
        require_same(stored, identity, f"Teacher '{identity.name}' of the cache {self._files.locate('')}")
        entry = self._entry(identity, coding)
        # The records' folder is a group, so that Zarr libraries list the entry without a warning.
        metas = {f"{folder}/records/{META}": _group_meta({})}
        for name, spec in coding.arrays(entry.layout.chunk_rows).items():
            metas[f"{folder}/{name}/{META}"] = _teacher_array_meta(spec, entry.layout.chunks)
        missing = [key for key in metas if self._files.size(key) is None]
        for key in missing:
            self._files.put(key, metas[key])
        if missing:
            self._files.tidy()  # the first block flushes them: its files lie in the same folders
        return entry

    def _teacher(self, name: str) -> TeacherIdentity | None:
        key = f"{teacher_key(name)}/{META}"
        data = self._files.get(key) if TEACHER_NAME.fullmatch(name) else None
        if data is None:
            return None
        where = self._files.locate(key)
        return TeacherIdentity.from_json(_group_content(data, where), where)

    def _entry(self, identity: TeacherIdentity, coding: Coding) -> Entry:
        codecs = {
            name: ZarrChunk(spec) for name, spec in coding.arrays(coding.chunk_rows(self.view_set.block_rows)).items()
        }
        entry = Entry(self._files, self.view_set, identity, coding, codecs)
        for name, codec in codecs.items():
            key = f"{teacher_key(identity.name)}/{name}/{META}"
            data = self._files.get(key)
            if data is not None:
                _require_array(data, _teacher_array_meta(codec.spec, entry.layout.chunks), self._files.locate(key))
        return entry


class ZarrChunk(ChunkCodec):
    """One chunk of an array, to the bytes that Zarr keeps of it and back: an array in memory of this one chunk."""

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        self._held: dict[str, Any] = {}
        self._array = _make_array(self._held, spec, spec.shape, spec.shape)
        self._key = "/".join(["c", *"0" * len(spec.shape)])
        self._lock = Lock()

    def encode(self, values: np.ndarray) -> bytes:
        """The same values always give the same bytes."""
        with self._lock:
            self._array[...] = values
            return self._held.pop(self._key).to_bytes()

    def decode(self, data: bytes) -> np.ndarray:
        """Raises CorruptError where the bytes cannot be decoded."""
        with self._lock:
            self._held[self._key] = _buffer(data)
            try:
                return np.asarray(self._array[...])
            except Exception as error:  # whatever a codec makes of bytes that are not its own
                raise CorruptError(f"A chunk cannot be decoded: {error}") from error
            finally:
                del self._held[self._key]


def encoded_bytes(coding: Coding, targets: Targets) -> dict[str, int]:
    """The bytes that targets would take as one chunk, by array; nothing is written."""
    packed = coding.pack(targets, len(targets))
    return {name: len(ZarrChunk(spec).encode(packed[name])) for name, spec in coding.arrays(len(targets)).items()}


def _windows_codec(samples: int) -> ZarrChunk:
    return ZarrChunk(ArraySpec("int32", (min(samples, WINDOWS_CHUNK),), shuffle="shuffle"))


def _teacher_array_meta(spec: ArraySpec, chunks: int) -> bytes:
    shape = [length * chunks if axis == spec.axis else length for axis, length in enumerate(spec.shape)]
    return _array_meta(spec, (VIEW_CAPACITY, *shape), (1, *spec.shape))


def _array_meta(spec: ArraySpec, shape: tuple[int, ...], chunks: tuple[int, ...]) -> bytes:
    """The zarr.json of an array."""
    held: dict[str, Any] = {}
    _make_array(held, spec, shape, chunks)
    return held[META].to_bytes()


def _make_array(
    held: dict[str, Any], spec: ArraySpec, shape: tuple[int, ...], chunks: tuple[int, ...]
) -> zarr.Array[Any]:
    """An array in `held`, of core codecs only, so that any Zarr v3 library can read it."""
    itemsize = np.dtype(spec.dtype).itemsize
    return zarr.create_array(
        MemoryStore(held),
        shape=shape,
        chunks=chunks,
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


def _require_array(stored: bytes, expected: bytes, where: str) -> None:
    """Raise CorruptError unless the two describe the same array, as Zarr understands them."""
    try:
        same = stored == expected or _array_dict(stored) == _array_dict(expected)
    except Exception:  # whatever Zarr makes of metadata that is none
        same = False
    if not same:
        raise CorruptError(f"{where} does not describe the array that belongs there. Restore it from a copy.")


def _array_dict(meta: bytes) -> dict[str, Any]:
    return dict(zarr.open_array(MemoryStore(_held(meta)), mode="r").metadata.to_dict())


def _group_meta(attributes: Mapping[str, Any]) -> bytes:
    held: dict[str, Any] = {}
    zarr.create_group(MemoryStore(held), attributes=dict(attributes))
    return held[META].to_bytes()


def _group_content(meta: bytes, where: str) -> dict[str, Any]:
    """What is sealed in a group's attributes. Raises CacheError where nothing is."""
    try:
        attributes = zarr.open_group(MemoryStore(_held(meta)), mode="r").attrs.asdict()
    except Exception as error:  # whatever Zarr makes of metadata that is none
        raise CacheError(f"{where} is no group of Zarr v3; this is no kdcache cache, or it is damaged.") from error
    return unseal(attributes.get(OURS), where)


def _held(meta: bytes) -> dict[str, Any]:
    """The contents of a store in memory that has this metadata and nothing else."""
    return {META: _buffer(meta)}


def _buffer(data: bytes) -> Any:
    return default_buffer_prototype().buffer.from_bytes(data)
