"""A teacher's entry in a cache: its blocks, written whole and once, and read back checked."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from kdcache.cache.files import Files
from kdcache.cache.identity import TeacherIdentity, ViewSetIdentity
from kdcache.cache.layout import VIEW_CAPACITY, Layout, check_view, chunk_key, record_folder, record_key, teacher_key
from kdcache.cache.record import BlockRecord, Stored
from kdcache.errors import CacheError, CorruptError, RecordedError
from kdcache.targets.base import ArraySpec, Coding, Targets

#: Records that are kept in memory, a few kilobytes each.
MAX_RECORDS = 8192

#: Numbers that a part of a chunk has room for: of whatever kind, some tens of megabytes once it is decoded.
PART = 2**20


class ChunkCodec(ABC):
    """Turns a chunk of an array into the bytes of a file and back."""

    spec: ArraySpec

    @abstractmethod
    def encode(self, values: np.ndarray) -> bytes:
        """The same values always give the same bytes."""

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """Raises CorruptError where the bytes cannot be decoded."""


class Entry:
    """The answers of one teacher. `Cache.entry` and `Cache.add_teacher` make them."""

    def __init__(
        self,
        files: Files,
        view_set: ViewSetIdentity,
        identity: TeacherIdentity,
        coding: Coding,
        codecs: Mapping[str, ChunkCodec],
    ) -> None:
        self.view_set = view_set
        self.identity = identity
        self.coding = coding
        self.layout = Layout(view_set.samples, view_set.block_rows, coding.chunk_rows(view_set.block_rows))
        self._files = files
        self._codecs = codecs
        self._known_record = lru_cache(maxsize=MAX_RECORDS)(self._read_record)

    def listed(self, view: int) -> set[int]:
        """Blocks of a view that have a record, by its name alone: one look at one folder."""
        names = self._files.names(record_folder(self.identity.name, view))
        numbers = _numbers(name.removesuffix(".json") for name in names if name.endswith(".json"))
        return {block for block in numbers if block < self.layout.blocks}

    def views(self) -> list[int]:
        """The views that have a record or had one, ascending."""
        return sorted(view for view in _numbers(self._files.names(self._records)) if view < VIEW_CAPACITY)

    def is_listed(self, view: int, block: int) -> bool:
        """Whether a block has a record."""
        return self._files.size(record_key(self.identity.name, view, block)) is not None

    def recorded(self, view: int) -> set[int]:
        """Blocks of a view that are there: they have a sound record, and chunks of the recorded lengths.

        Where no crash can leave a record without its chunks, the names of the records are enough.
        """
        listed = self.listed(view)
        return {block for block in listed if self._is_sound(view, block)} if self._files.may_lose else listed

    def whole_views(self) -> list[int]:
        """The views of which every block is listed, ascending."""
        return [view for view in self.views() if len(self.listed(view)) == self.layout.blocks]

    def complete_views(self) -> int:
        """Length of the longest prefix of views of which every block is listed."""
        views, view = set(self.views()), 0
        while view in views and len(self.listed(view)) == self.layout.blocks:
            view += 1
        return view

    def chunk_names(self, block: int) -> set[str]:
        """What the record of a block has to name: "ARRAY/CHUNK" for each."""
        return {f"{name}/{chunk}" for name in self._codecs for chunk in self.layout.chunks_of(block)}

    def record(self, view: int, block: int) -> BlockRecord:
        """The record of a block. Raises CacheError where there is none, CorruptError where it cannot be read."""
        return self._known_record(view, block)

    def own_record(self, view: int, block: int) -> BlockRecord:
        """What `record` gives. Raises CorruptError also where it is another block's, by the chunks that it names."""
        record = self.record(view, block)
        if record.chunks.keys() != self.chunk_names(block):
            where = self._files.locate(record_key(self.identity.name, view, block))
            raise CorruptError(
                f"The record of view {view}, block {block} of teacher '{self.identity.name}' ({where}) is another "
                f"block's: it names other chunks.",
                self._remedy,
            )
        return record

    def stored_bytes(self, view: int) -> dict[str, int]:
        """Bytes of a view's recorded blocks by array, and under `records` those of the records."""
        found = dict.fromkeys([*self._codecs, "records"], 0)
        for block in sorted(self.listed(view)):
            record = self.record(view, block)
            for name, stored in record.chunks.items():
                found[name.split("/")[0]] = found.get(name.split("/")[0], 0) + stored.length
            found["records"] += len(record.to_bytes())
        return found

    def read_chunk(self, view: int, chunk: int) -> Targets:
        """The answers to a chunk's rows (`layout.chunk_range`), without labels.

        Raises CacheError where the block was not recorded, CorruptError where it is not what was written.
        """
        start, stop = self.layout.chunk_range(chunk)
        arrays = self._arrays(view, chunk)
        with self._fitting(view, chunk):
            return self.coding.unpack(arrays, stop - start)

    def read_parts(self, view: int, chunk: int, rows: slice = slice(None)) -> Iterator[Targets]:
        """What `read_chunk` gives, or these rows of it (no step), some at a time, in little memory."""
        first, stop = self.layout.chunk_range(chunk)
        first, stop, _ = rows.indices(stop - first)
        room = sum(prod(codec.spec.shape) for codec in self._codecs.values())
        step = max(1, PART * self.layout.chunk_rows // room)
        arrays = self._arrays(view, chunk)
        for start in range(first, stop, step):
            last = min(start + step, stop)
            with self._fitting(view, chunk):
                part = self.coding.unpack(self.coding.rows_of(arrays, start, last), last - start)
            yield part

    def read_block(self, view: int, block: int) -> Targets:
        """The answers to all rows of a block; see `read_chunk`. A `full` block may need much memory."""
        return _join([self.read_chunk(view, chunk) for chunk in self.layout.chunks_of(block)])

    def raw_block(self, view: int, block: int) -> Iterator[tuple[str, bytes]]:
        """Keys and bytes of a recorded block: its chunks, each checked against the record, and then the record.

        Raises CacheError and CorruptError as `read_chunk` and `own_record` do.
        """
        record = self.own_record(view, block)
        for name in self._codecs:
            for chunk in self.layout.chunks_of(block):
                yield self._chunk_key(name, view, chunk), self._checked_chunk(record, name, view, chunk)
        yield record_key(self.identity.name, view, block), record.to_bytes()

    def open_block(self, view: int, block: int) -> "BlockWriter":
        """Write a block piece by piece. Raises RecordedError where it is there already."""
        return BlockWriter(self, view, block)

    def write_block(self, view: int, block: int, targets: Targets, provenance: Mapping[str, Any]) -> None:
        """Write a block whose answers are all at hand; see `BlockWriter`."""
        writer = self.open_block(view, block)
        writer.append(targets)
        writer.finish(provenance)

    def drop_record(self, view: int, block: int) -> None:
        """Make a block not exist, so that the next dump makes it anew; nothing happens where it does not."""
        self._files.delete(record_key(self.identity.name, view, block))
        self._known_record.cache_clear()

    def settle(self, view: int, block: int) -> bool:
        """Whether a block is there; a record without its chunks, which a crash may leave, is dropped first."""
        if self.is_listed(view, block) and not self._is_sound(view, block):
            self.drop_record(view, block)
        return self.is_listed(view, block)

    def drop_if_mixed(self, view: int, block: int) -> None:
        """For a process that wrote chunks of a block that another has recorded: well unless they lie over the other's.

        Then the block is neither one nor the other; without its record it does not exist, and can be made again.
        Raises RecordedError in that case.
        """
        record = self._read_record(view, block)
        for name in self.chunk_names(block):
            array, chunk = name.split("/")
            data, stored = self._files.get(self._chunk_key(array, view, int(chunk))), record.chunks.get(name)
            if data is None or stored is None or not stored.describes(data):
                self.drop_record(view, block)
                raise RecordedError(
                    f"Another process wrote view {view}, block {block} of teacher '{self.identity.name}' at the same "
                    "time with other bytes, so its record was dropped. Run the same command again, which makes this "
                    "block anew."
                )

    def _arrays(self, view: int, chunk: int) -> dict[str, np.ndarray]:
        """The arrays of a chunk, each checked and decoded before the next is read."""
        record = self.record(view, self.layout.block_of(chunk))
        found = {}
        for name, codec in self._codecs.items():
            data = self._checked_chunk(record, name, view, chunk)
            with self._fitting(view, chunk):
                found[name] = codec.decode(data)
        return found

    @contextmanager
    def _fitting(self, view: int, chunk: int) -> Iterator[None]:
        """Name the block where bytes that are what was written make no sense."""
        block = self.layout.block_of(chunk)
        try:
            yield
        except CorruptError as error:
            raise CorruptError(
                f"View {view}, block {block} of teacher '{self.identity.name}' does not fit: {error}",
                self._remedy,
            ) from error

    @property
    def files(self) -> Files:
        """Where its bytes lie."""
        return self._files

    @property
    def _records(self) -> str:
        return f"{teacher_key(self.identity.name)}/records"

    def _read_record(self, view: int, block: int) -> BlockRecord:
        key = record_key(self.identity.name, view, block)
        data = self._files.get(key)
        if data is None:
            raise CacheError(
                f"View {view}, block {block} of teacher '{self.identity.name}' is not in the cache "
                f"({self._files.locate(key)}). Run the same dump-logits again to complete it."
            )
        try:
            return BlockRecord.from_bytes(data, self._files.locate(key))
        except CacheError as error:
            raise CorruptError(error.problem, self._remedy) from None

    def _is_sound(self, view: int, block: int) -> bool:
        try:
            record = self._read_record(view, block)
        except CorruptError:
            return False
        return record.chunks.keys() == self.chunk_names(block) and all(
            self._files.size(self._chunk_key(name.split("/")[0], view, int(name.split("/")[1]))) == stored.length
            for name, stored in record.chunks.items()
        )

    def _checked_chunk(self, record: BlockRecord, name: str, view: int, chunk: int) -> bytes:
        key, block = self._chunk_key(name, view, chunk), self.layout.block_of(chunk)
        data, stored = self._files.get(key), record.chunks.get(f"{name}/{chunk}")
        if data is None or stored is None or not stored.describes(data):
            state = "is missing" if data is None else "is not what was written"
            raise CorruptError(f"{self._chunk_name(name, view, block, key)} {state}.", self._remedy)
        return data

    def _chunk_key(self, name: str, view: int, chunk: int) -> str:
        spec = self._codecs[name].spec
        return f"{teacher_key(self.identity.name)}/{name}/{chunk_key(spec.axis, len(spec.shape), view, chunk)}"

    def _chunk_name(self, name: str, view: int, block: int, key: str) -> str:
        return (
            f"Array '{name}' of teacher '{self.identity.name}', view {view}, block {block} ({self._files.locate(key)})"
        )

    @property
    def _remedy(self) -> str:
        return (
            f"All other blocks are unharmed. Run `kdcache verify {self._files.locate('')} --repair`, which drops this "
            "one, and then the same dump-logits, which makes it anew."
        )


class BlockWriter:
    """Writes one block: chunks as they fill, then, when all of them are flushed, its record.

    Until `finish` returns the block does not exist, and whatever lies in its place is written over. `append` and
    `finish` raise RecordedError once another process has recorded it, and leave its chunks alone; where some were
    written over before that, its record is dropped.
    """

    def __init__(self, entry: Entry, view: int, block: int) -> None:
        check_view(view)
        self._entry, self._view, self._block = entry, view, block
        start, stop = entry.layout.block_range(block)
        self._missing = stop - start
        self._chunks = iter(entry.layout.chunks_of(block))
        self._pending: list[Targets] = []
        self._stored: dict[str, Stored] = {}
        self._keys: list[str] = []
        if entry.settle(view, block):
            raise self._recorded()

    def append(self, targets: Targets) -> None:
        """The answers to the next rows. Raises CacheError when they are more than the block has."""
        if len(targets) > self._missing:
            raise CacheError(
                f"Block {self._block} of view {self._view} has {self._missing} rows left, "
                f"and {len(targets)} were given."
            )
        self._missing -= len(targets)
        self._pending.append(targets)
        rows = self._entry.layout.chunk_rows
        while sum(map(len, self._pending)) >= rows:
            joined = _join(self._pending)
            self._write_chunk(joined[:rows])
            self._pending = [joined[rows:]]

    def finish(self, provenance: Mapping[str, Any], kl: float | None = None) -> None:
        """Flush and record the block; `kl` as in `BlockRecord`. Raises CacheError when rows are missing."""
        if self._missing:
            raise CacheError(f"Block {self._block} of view {self._view} lacks {self._missing} rows.")
        if sum(map(len, self._pending)):
            self._write_chunk(_join(self._pending))
            self._pending = []
        files, entry = self._entry._files, self._entry
        files.flush(self._keys)
        record = BlockRecord(self._stored, provenance, kl)
        key = record_key(entry.identity.name, self._view, self._block)
        if not files.put_if_absent(key, record.to_bytes()):
            entry.drop_if_mixed(self._view, self._block)
        files.tidy()

    def _write_chunk(self, targets: Targets) -> None:
        entry, chunk = self._entry, next(self._chunks)
        if entry.is_listed(self._view, self._block):
            if self._keys:
                entry.drop_if_mixed(self._view, self._block)
            raise self._recorded()
        packed = entry.coding.pack(targets, entry.layout.chunk_rows)
        for name, codec in entry._codecs.items():
            key = entry._chunk_key(name, self._view, chunk)
            data = codec.encode(packed[name])
            entry._files.put(key, data)
            found = entry._files.get(key)
            if found != data or not np.array_equal(codec.decode(found), packed[name]):
                raise CorruptError(
                    f"{entry._chunk_name(name, self._view, self._block, key)} was read back with other bytes than "
                    "were written. The disk or the memory cannot be trusted; check them before going on."
                )
            self._stored[f"{name}/{chunk}"] = Stored.of(found)
            self._keys.append(key)

    def _recorded(self) -> RecordedError:
        return RecordedError(
            f"View {self._view}, block {self._block} of teacher '{self._entry.identity.name}' is recorded already, "
            "and a recorded block is never written again: another process writes this cache. Let it finish, then "
            "run the same command again."
        )


def _numbers(names: Iterable[str]) -> set[int]:
    """The numbers among some names, each written as a key has it: `1`, and not `01`."""
    return {int(name) for name in names if name.isdecimal() and str(int(name)) == name}


def _join(parts: Sequence[Targets]) -> Targets:
    return type(parts[0]).concat(parts)
