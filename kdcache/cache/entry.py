"""A teacher's entry in a cache: its blocks, written whole and once, and read back checked."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np

from kdcache.cache.block_commit import BlockCommit
from kdcache.cache.blocks import Blocks
from kdcache.cache.chunk_codec import ChunkCodec
from kdcache.cache.chunk_files import ChunkFile
from kdcache.cache.files import Files
from kdcache.cache.identity import TeacherIdentity, ViewSetIdentity
from kdcache.cache.layout import Layout, check_view
from kdcache.cache.record import BlockRecord, Stored
from kdcache.errors import CacheError, CorruptError, RecordedError
from kdcache.targets.base import TargetCodec, Targets

#: Numbers that a part of a chunk has room for: of whatever kind, some tens of megabytes once it is decoded.
PART = 2**20

#: Bytes of all arrays of a chunk from which they are compressed in threads: for fewer, starting those takes longer.
TOGETHER = 2**20


class Entry(Blocks):
    """The cached targets of one teacher. `Cache.entry` and `Cache.add_teacher` make them."""

    def __init__(
        self,
        files: Files,
        view_set: ViewSetIdentity,
        identity: TeacherIdentity,
        codec: TargetCodec,
        codecs: Mapping[str, ChunkCodec],
    ) -> None:
        rows = view_set.block_rows
        layout = Layout(view_set.samples, rows, codec.file_rows(rows), codec.chunk_rows(rows))
        super().__init__(files, view_set, identity, layout, codecs)
        self.codec = codec

    def read_chunk(self, view: int, chunk: int) -> Targets:
        """Return the targets of a chunk's rows (`layout.chunk_range`), without labels.

        Raises CacheError where the block was not recorded, CorruptError where it is not what was written.
        """
        start, stop = self.layout.chunk_range(chunk)
        arrays = self._arrays(view, chunk)
        with self._fitting(view, chunk):
            return self.codec.decode(arrays, stop - start)

    def read_parts(self, view: int, chunk: int, rows: slice = slice(None)) -> Iterator[Targets]:
        """Yield what `read_chunk` returns, or these rows of it (no step), some at a time, in little memory."""
        first, stop = self.layout.chunk_range(chunk)
        first, stop, _ = rows.indices(stop - first)
        room = sum(prod(chunk_codec.spec.shape) for chunk_codec in self._codecs.values())
        step = max(1, PART * self.layout.chunk_rows // room)
        arrays = self._arrays(view, chunk)
        for start in range(first, stop, step):
            last = min(start + step, stop)
            with self._fitting(view, chunk):
                part = self.codec.decode(self.codec.rows_of(arrays, start, last), last - start)
            yield part

    def read_block(self, view: int, block: int) -> Targets:
        """Return the targets of all rows of a block; see `read_chunk`. A block of full targets may need much memory."""
        return _join([self.read_chunk(view, chunk) for chunk in self.layout.chunks_of(block)])

    def open_block(self, view: int, block: int) -> "BlockWriter":
        """Write a block piece by piece. Raises RecordedError where it is there already."""
        return BlockWriter(self, view, block)

    def write_block(self, view: int, block: int, targets: Targets, provenance: Mapping[str, Any]) -> None:
        """Write a block whose targets are all at hand; see `BlockWriter`."""
        writer = self.open_block(view, block)
        writer.append(targets)
        writer.finish(provenance)

    def _arrays(self, view: int, chunk: int) -> dict[str, np.ndarray]:
        """Return the arrays of a chunk, each checked and decoded before the next is read."""
        block = self.layout.block_of(chunk)
        record = self.record(view, block)
        found = {}
        for name, chunk_codec in self._codecs.items():
            file = self._file(name, view, self.layout.file_of(chunk))
            data = self._checked_chunk(record, file, f"{name}/{chunk}", view, block)
            with self._fitting(view, chunk):
                found[name] = chunk_codec.decode(data)
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
        self._commit = BlockCommit(entry, view, block)
        if entry.drop_incomplete(view, block):
            raise self._recorded()

    def append(self, targets: Targets) -> None:
        """Append the targets of the next rows. Raises CacheError when they are more than the block has."""
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

    def finish(self, provenance: Mapping[str, Any], kl: float | None = None, lost: str | None = None) -> None:
        """Flush and record the block; `kl` and `lost` as in `BlockRecord`. Raises CacheError when rows are missing."""
        if self._missing:
            raise CacheError(f"Block {self._block} of view {self._view} lacks {self._missing} rows.")
        if sum(map(len, self._pending)):
            self._write_chunk(_join(self._pending))
            self._pending = []
        block_id = self._entry.recorded_id(self._view, self._block)
        self._commit.record(BlockRecord(self._stored, provenance, kl, block_id, lost))
        self._entry.files.tidy()

    def _write_chunk(self, targets: Targets) -> None:
        entry, chunk = self._entry, next(self._chunks)
        encoded = entry.codec.encode(targets, entry.layout.chunk_rows)
        for name, data in self._compressed(encoded, chunk):
            file = entry._file(name, self._view, entry.layout.file_of(chunk))
            self._parts[name].append(data)
            self._stored[f"{name}/{chunk}"] = Stored.of(data)
            if len(self._parts[name]) == len(file.names):
                self._put(file, self._parts[name])
                self._parts[name] = []

    def _compressed(self, encoded: Mapping[str, np.ndarray], chunk: int) -> Iterator[tuple[str, bytes]]:
        """Yield the bytes of each array of a chunk, in the order of the arrays; large ones are made at the same time.

        The teacher of a dump waits for the last chunk of a block.
        """
        names = list(self._entry._codecs)
        if sum(encoded[name].nbytes for name in names) < TOGETHER:
            yield from ((name, self._compress(encoded, chunk, name)) for name in names)
            return
        with ThreadPoolExecutor(len(names)) as pool:
            yield from zip(names, pool.map(partial(self._compress, encoded, chunk), names), strict=True)

    def _compress(self, encoded: Mapping[str, np.ndarray], chunk: int, name: str) -> bytes:
        """Return the bytes of an array. Raises CorruptError where they cannot be decoded again."""
        entry, chunk_codec = self._entry, self._entry._codecs[name]
        data = chunk_codec.encode(encoded[name])
        if not np.array_equal(chunk_codec.decode(data), encoded[name]):
            file = entry._file(name, self._view, entry.layout.file_of(chunk))
            raise CorruptError(
                f"What was to be written to {entry._file_name(file, self._view, self._block)} could not be decoded "
                "again. The machine's memory or processor cannot be trusted; check them before going on."
            )
        return data

    def _put(self, file: ChunkFile, parts: list[bytes]) -> None:
        index = file.index([len(part) for part in parts])
        if not self._commit.put(file.key, *parts, *([index] if index else [])):
            raise self._recorded()

    def _recorded(self) -> RecordedError:
        return RecordedError(
            f"View {self._view}, block {self._block} of teacher '{self._entry.identity.name}' is recorded already, "
            "and a recorded block is never written again: another process writes this cache. Let it finish, then "
            "run the same command again."
        )


def _join(parts: Sequence[Targets]) -> Targets:
    return type(parts[0]).concat(parts)
