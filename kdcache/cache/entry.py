"""A teacher's entry in a cache: its blocks, written whole and once, and read back checked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from kdcache.cache.chunk_codec import ChunkCodec
from kdcache.cache.chunk_files import ChunkFile
from kdcache.cache.files import Files
from kdcache.cache.identity import TeacherIdentity, ViewSetIdentity
from kdcache.cache.layout import VIEW_CAPACITY, Layout, check_view, file_key, record_folder, record_key, teacher_key
from kdcache.cache.record import BlockRecord, Stored
from kdcache.errors import CacheError, CorruptError, RecordedError
from kdcache.targets.base import Coding, Targets

#: Chunks of which records are kept in memory, some 200 bytes each, and the records that are kept in any case.
MAX_RECORDED, MIN_RECORDS = 2**17, 64

#: Numbers that a part of a chunk has room for: of whatever kind, some tens of megabytes once it is decoded.
PART = 2**20


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
        rows = view_set.block_rows
        self.layout = Layout(view_set.samples, rows, coding.file_rows(rows), coding.chunk_rows(rows))
        self._files = files
        self._codecs = codecs
        kept = max(MIN_RECORDS, MAX_RECORDED // len(self.chunk_names(0)))
        self._known_record = lru_cache(maxsize=kept)(self._read_record)

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
            record = self.own_record(view, block)
            for file in self.block_files(view, block):
                found[file.array] += file.length(record.chunks)
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

    def raw_block(self, view: int, block: int) -> Iterator[tuple[str, list[bytes]]]:
        """Keys and bytes of a recorded block: its files, each chunk checked against the record, and then the record.

        The bytes are parts that lie one behind the other. Raises CacheError and CorruptError as `read_chunk` and
        `own_record` do.
        """
        record = self.own_record(view, block)
        for file in self.block_files(view, block):
            parts = [self._checked_chunk(record, file, chunk, view, block) for chunk in file.names]
            yield file.key, [*parts, *filter(None, [file.recorded_index(record.chunks)])]
        yield record_key(self.identity.name, view, block), [record.to_bytes()]

    def check_bytes(self, view: int, block: int) -> None:
        """Raise as `raw_block` does, and where an index is not what was written; a chunk is held at a time."""
        record = self.own_record(view, block)
        for file in self.block_files(view, block):
            for chunk in file.names:
                self._checked_chunk(record, file, chunk, view, block)
        self.check_indices(view, block)

    def check_indices(self, view: int, block: int) -> None:
        """Raise CorruptError where something else than what was written lies in a block's files beside its chunks.

        It is of no use for reading here, and others read by it.
        """
        record = self.own_record(view, block)
        for file in self.block_files(view, block):
            length, index = file.length(record.chunks), file.recorded_index(record.chunks)
            if index and self._files.get_part(file.key, length - len(index), len(index) + 1) != index:
                where = self._file_name(file, view, block)
                raise CorruptError(f"The index of {where} is not what was written.", self._remedy)

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
        self._known_record.cache_clear()
        try:
            self.check_bytes(view, block)
        except CorruptError:
            self.drop_record(view, block)
            raise RecordedError(
                f"Another process wrote view {view}, block {block} of teacher '{self.identity.name}' at the same "
                "time with other bytes, so its record was dropped. Run the same command again, which makes this "
                "block anew."
            ) from None

    def _arrays(self, view: int, chunk: int) -> dict[str, np.ndarray]:
        """The arrays of a chunk, each checked and decoded before the next is read."""
        block = self.layout.block_of(chunk)
        record = self.record(view, block)
        found = {}
        for name, codec in self._codecs.items():
            file = self._file(name, view, self.layout.file_of(chunk))
            data = self._checked_chunk(record, file, f"{name}/{chunk}", view, block)
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
            self._files.size(file.key) == file.length(record.chunks) for file in self.block_files(view, block)
        )

    def _checked_chunk(self, record: BlockRecord, file: ChunkFile, name: str, view: int, block: int) -> bytes:
        stored = record.chunks.get(name)
        if file.room == 1:
            data = self._files.get(file.key)
        elif stored is None or not record.chunks.keys() >= set(file.names):
            data = b""
        else:
            data = self._files.get_part(file.key, file.start(name, record.chunks), stored.length)
        if data is None or stored is None or not stored.describes(data):
            state = "is missing" if data is None else "is not what was written"
            raise CorruptError(f"{self._file_name(file, view, block)} {state}.", self._remedy)
        return data

    def block_files(self, view: int, block: int) -> list[ChunkFile]:
        """The files that make a block, of one array after the other."""
        return [self._file(name, view, number) for name in self._codecs for number in self.layout.files_of(block)]

    def _file(self, name: str, view: int, number: int) -> ChunkFile:
        spec, layout = self._codecs[name].spec, self.layout
        key = f"{teacher_key(self.identity.name)}/{name}/{file_key(spec.axis, len(spec.shape), view, number)}"
        return ChunkFile(key, tuple(f"{name}/{chunk}" for chunk in layout.chunks_in(number)), layout.chunks_a_file)

    def _file_name(self, file: ChunkFile, view: int, block: int) -> str:
        return (
            f"Array '{file.array}' of teacher '{self.identity.name}', view {view}, block {block} "
            f"({self._files.locate(file.key)})"
        )

    @property
    def _remedy(self) -> str:
        return (
            f"All other blocks are unharmed. Run `kdcache verify {self._files.locate('')} --repair`, which drops this "
            "one, and then the same dump-logits, which makes it anew."
        )


class BlockWriter:
    """Writes one block: its files as their chunks are there, then, when all of them are flushed, its record.

    Until `finish` returns the block does not exist, and whatever lies in its place is written over. `append` and
    `finish` raise RecordedError once another process has recorded it, and leave its chunks alone; where some were
    written over before that, its record is dropped. No more is held than the chunks of a file, as they are stored.
    """

    def __init__(self, entry: Entry, view: int, block: int) -> None:
        check_view(view)
        self._entry, self._view, self._block = entry, view, block
        start, stop = entry.layout.block_range(block)
        self._missing = stop - start
        self._chunks = iter(entry.layout.chunks_of(block))
        self._pending: list[Targets] = []
        self._parts: dict[str, list[bytes]] = {name: [] for name in entry._codecs}
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
            data = codec.encode(packed[name])
            file = entry._file(name, self._view, entry.layout.file_of(chunk))
            if not np.array_equal(codec.decode(data), packed[name]):
                raise self._untrusted(file)
            self._parts[name].append(data)
            self._stored[f"{name}/{chunk}"] = Stored.of(data)
            if len(self._parts[name]) == len(file.names):
                self._put(file, self._parts[name])
                self._parts[name] = []

    def _put(self, file: ChunkFile, parts: list[bytes]) -> None:
        index = file.index([len(part) for part in parts])
        parts = [*parts, index] if index else parts
        self._entry.files.put(file.key, *parts)
        if not self._entry.files.holds(file.key, *parts):
            raise self._untrusted(file)
        self._keys.append(file.key)

    def _untrusted(self, file: ChunkFile) -> CorruptError:
        return CorruptError(
            f"{self._entry._file_name(file, self._view, self._block)} was read back with other bytes than were "
            "written. The disk or the memory cannot be trusted; check them before going on."
        )

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
