"""The stored blocks of a teacher's targets: each is a record and the files that it names. Nothing is decoded."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

from kdcache.cache.belonging import belongs_elsewhere, no_own_record
from kdcache.cache.chunk_codec import ChunkCodec
from kdcache.cache.chunk_files import ChunkFile
from kdcache.cache.files import Files
from kdcache.cache.identity import TeacherIdentity, ViewSetIdentity
from kdcache.cache.layout import VIEW_CAPACITY, Layout, file_key, lost_key, record_folder, record_key, teacher_key
from kdcache.cache.record import BlockId, BlockRecord
from kdcache.errors import CacheError, CorruptError, RecordedError, UnreadableError

#: Chunks of which records are kept in memory, some 200 bytes each, and the records that are kept in any case.
MAX_RECORDED, MIN_RECORDS = 2**17, 64

#: Records that are read at a time: one alone waits for the network most of the time.
READERS = 8


class Blocks:
    """The blocks of one teacher: which there are, whether they are sound, and their bytes."""

    def __init__(
        self,
        files: Files,
        view_set: ViewSetIdentity,
        identity: TeacherIdentity,
        layout: Layout,
        codecs: Mapping[str, ChunkCodec],
    ) -> None:
        self.view_set = view_set
        self.identity = identity
        self.layout = layout
        self._files = files
        self._codecs = codecs
        self._digests = view_set.digest, identity.digest
        self._own: set[tuple[int, int]] = set()
        #: Lists of lost samples that are there; nobody removes one.
        self._lost_lists: set[str] = set()
        kept = max(MIN_RECORDS, MAX_RECORDED // self._chunks_of(0))
        self._known_record = lru_cache(maxsize=kept)(self._read_record)

    def listed(self, view: int) -> set[int]:
        """Return the blocks of a view that have a record, by its name alone: one look at one folder."""
        names = self._files.names(record_folder(self.identity.name, view))
        numbers = _numbers(name.removesuffix(".json") for name in names if name.endswith(".json"))
        return {block for block in numbers if block < self.layout.blocks}

    def surely_listed(self, view: int) -> set[int]:
        """Return what `listed` does, for callers that leave out or report a block that is not among them.

        A listing that lacks blocks is asked for again, where the place may give one of before.
        """
        found: set[int] = set()

        def look() -> bool:
            found.update(self.listed(view))
            return len(found) == self.layout.blocks

        self._files.confirm(record_folder(self.identity.name, view), look, bool)
        return found

    def views(self) -> list[int]:
        """Return the views that have a record or had one, ascending; none is missed."""
        return sorted(view for view in _numbers(self._files.all_names(self._records)) if view < VIEW_CAPACITY)

    def is_listed(self, view: int, block: int) -> bool:
        """Return whether a block has a record."""
        return self._files.size(record_key(self.identity.name, view, block)) is not None

    def is_recorded(self, view: int, block: int) -> bool:
        """Return whether a block is there, as `recorded` has it."""
        is_there = self.is_sound if self._files.may_lose else self._is_own
        return self.is_listed(view, block) and is_there(view, block)

    def recorded(self, view: int) -> set[int]:
        """Return the blocks of a view with a sound record of their own, and chunks of the recorded lengths.

        Where no crash can leave a record without its chunks, the records are enough; each is read once.
        """
        listed = sorted(self.listed(view))
        with ThreadPoolExecutor(READERS) as pool:
            there = pool.map(partial(self.is_sound if self._files.may_lose else self._is_own, view), listed)
            return {block for block, is_there in zip(listed, there, strict=True) if is_there}

    def whole_views(self) -> list[int]:
        """Return the views of which every block is listed, ascending."""
        return [view for view in self.views() if len(self.surely_listed(view)) == self.layout.blocks]

    def complete_views(self) -> int:
        """Return the length of the longest prefix of views of which every block is listed."""
        view = 0
        while view < VIEW_CAPACITY and len(self.surely_listed(view)) == self.layout.blocks:
            view += 1
        return view

    def chunk_names(self, block: int) -> set[str]:
        """Return the names of chunks that the record of a block must have: "ARRAY/CHUNK" for each."""
        return {f"{name}/{chunk}" for name in self._codecs for chunk in self.layout.chunks_of(block)}

    def record(self, view: int, block: int) -> BlockRecord:
        """Return the record of a block.

        Raises CacheError where there is none, CorruptError where it cannot be read or says that it is another block's.
        """
        return self._known_record(view, block)

    def own_record(self, view: int, block: int) -> BlockRecord:
        """Return what `record` does. Raises CorruptError also where it names the chunks of another block."""
        record = self.record(view, block)
        if not self._names_all(record, block):
            where = self._files.locate(record_key(self.identity.name, view, block))
            raise CorruptError(
                f"The record of view {view}, block {block} of teacher '{self.identity.name}' ({where}) is another "
                f"block's: it names other chunks.",
                self._remedy,
            )
        return record

    def require_records(self, views: Iterable[int]) -> None:
        """Raise as `own_record` does for the first listed block of these views for which that does."""
        with ThreadPoolExecutor(READERS) as pool:
            for view in views:
                deque(pool.map(partial(self.own_record, view), sorted(self.listed(view))), maxlen=0)

    def require_own_records(self) -> None:
        """Raise CorruptError where there are records, and all of those that can be read are of other entries.

        Then it is rather the identity that is in a wrong place, or the folder, than every block. As long as a single
        record is the entry's own, the others are blocks in a wrong place, each for itself.
        """
        foreign: CorruptError | None = None
        for view in self.views():
            for block in sorted(self.surely_listed(view)):
                try:
                    found = self._any_record(view, block).block_id
                except CacheError:  # it says nothing of where it belongs
                    continue
                expected = self.block_id(view, block)
                if found is None:
                    is_own = not self.view_set.records_name_blocks
                else:
                    is_own = (found.view_set, found.teacher) == self._digests
                if is_own:
                    return
                foreign = foreign or no_own_record(self._files, self.identity.name, found, expected)
        if foreign is not None:
            raise foreign

    def stored_bytes(self, view: int) -> dict[str, int]:
        """Return the bytes of a view's recorded blocks by array, and under `records` those of the records."""
        found = dict.fromkeys([*self._codecs, "records"], 0)
        for block in sorted(self.surely_listed(view)):
            record = self.own_record(view, block)
            for file in self.block_files(view, block):
                found[file.array] += file.length(record.chunks)
            found["records"] += len(record.to_bytes())
        return found

    def raw_block(self, view: int, block: int) -> Iterator[tuple[str, list[bytes]]]:
        """Yield keys and bytes of the files of a recorded block, each chunk checked against the record.

        The bytes are parts that lie one behind the other. Raises CacheError and CorruptError as `read_chunk` and
        `own_record` do.
        """
        record = self.own_record(view, block)
        for file in self.block_files(view, block):
            parts = [self._checked_chunk(record, file, chunk, view, block) for chunk in file.names]
            yield file.key, [*parts, *filter(None, [file.recorded_index(record.chunks)])]
            del parts  # before the next are read: they may be two gigabytes

    def check_bytes(self, view: int, block: int) -> None:
        """Raise as `raw_block` does, and where an index is not what was written; a chunk is held at a time."""
        self.check_indices(view, block)
        record = self.own_record(view, block)
        for file in self.block_files(view, block):
            for chunk in file.names:
                self._checked_chunk(record, file, chunk, view, block)

    def check_indices(self, view: int, block: int) -> None:
        """Raise CorruptError where a block's files lack something, or have something beside their chunks.

        The index is of no use for reading here, and others read by it.
        """
        record = self.own_record(view, block)
        for file in self.block_files(view, block):
            length, index = file.length(record.chunks), file.recorded_index(record.chunks)
            where = self._file_name(file, view, block)
            self._files.confirm(file.key, partial(self._check_index, file.key, length, index, where))

    def _check_index(self, key: str, length: int, index: bytes, where: str) -> bool:
        """Raise CorruptError unless a file has the right length, and its index behind its chunks."""
        size = self._files.size(key)
        if size is None:
            raise CorruptError(f"{where} is missing.", self._remedy)
        if size != length:
            raise CorruptError(f"{where} has {size:,} bytes, and {length:,} were written.", self._remedy)
        if index and self._files.get_part(key, length - len(index), len(index)) != index:
            raise CorruptError(f"{where} has another index than was written.", self._remedy)
        return True

    def block_id(self, view: int, block: int) -> BlockId:
        """Return which block it is that a view and a number mean here."""
        return BlockId(*self._digests, view, block)

    def recorded_id(self, view: int, block: int) -> BlockId | None:
        """Return what the record of a block says of it: which block it is, but nothing in a cache of format 3."""
        return self.block_id(view, block) if self.view_set.records_name_blocks else None

    def drop_record(self, view: int, block: int) -> None:
        """Make a block not exist, so that the next dump makes it anew; nothing happens where it does not."""
        self._files.delete(record_key(self.identity.name, view, block))
        self._known_record.cache_clear()
        self._own.discard((view, block))

    def is_sound(self, view: int, block: int) -> bool:
        """Return whether a listed block has a sound record that is its own, and files of the recorded lengths."""
        try:
            record = self._read_record(view, block)
        except UnreadableError:
            raise
        except CacheError:  # damaged, or dropped since it was listed
            return False
        return self._names_all(record, block) and all(
            self._has_length(file.key, file.length(record.chunks)) for file in self.block_files(view, block)
        )

    def drop_incomplete(self, view: int, block: int) -> bool:
        """Drop the record of a block that a crash left without its chunks; returns whether the block is there then."""
        if self.is_listed(view, block) and not self.is_sound(view, block):
            self.drop_record(view, block)
        return self.is_listed(view, block)

    def drop_if_mixed(self, view: int, block: int) -> None:
        """Drop another process's record of a block whose chunks this process has written over.

        Then the block is neither one nor the other; without its record it does not exist, and can be made again.
        Raises RecordedError in that case.
        """
        self.forget_records()
        try:
            self.check_bytes(view, block)
        except CorruptError:
            self.drop_record(view, block)
            raise RecordedError(
                f"Another process wrote view {view}, block {block} of teacher '{self.identity.name}' at the same "
                "time with other bytes, so its record was dropped. Run the same command again, which makes this "
                "block anew."
            ) from None

    def forget_records(self) -> None:
        """Read records again that were read before: another process may have made blocks anew."""
        self._known_record.cache_clear()

    @property
    def files(self) -> Files:
        """The files of the cache."""
        return self._files

    def block_files(self, view: int, block: int) -> list[ChunkFile]:
        """Return the files that make a block, of one array after the other."""
        return [self._file(name, view, number) for name in self._codecs for number in self.layout.files_of(block)]

    @property
    def _records(self) -> str:
        return f"{teacher_key(self.identity.name)}/records"

    def _read_record(self, view: int, block: int) -> BlockRecord:
        record, expected = self._any_record(view, block), self.block_id(view, block)
        if record.block_id not in (expected, self.recorded_id(view, block)):
            where = self._files.locate(record_key(self.identity.name, view, block))
            raise CorruptError(
                f"The record of view {view}, block {block} of teacher '{self.identity.name}' ({where}) "
                f"{belongs_elsewhere(self._files, record.block_id, expected)}: files were exchanged, or copied here, "
                "and what lies there is not used.",
                f"Run `kdcache verify {self._files.locate('')} --repair`, which drops every block in a wrong place, "
                "and then the same dump-logits, which makes them anew.",
            )
        if record.lost is not None:
            self._require_lost_list(record.lost, view, block)
        return record

    def _require_lost_list(self, name: str, view: int, block: int) -> None:
        """Raise CorruptError where the list is gone that says which rows of a block nobody may learn from."""
        if name in self._lost_lists:
            return
        key = lost_key(name)
        if self._files.confirm(key, lambda: self._files.size(key)) is None:
            raise CorruptError(
                f"{self._files.locate(key)} is missing, which says which images were lost when view {view}, block "
                f"{block} of teacher '{self.identity.name}' was computed: targets of a stand-in image cannot be "
                "told from the others.",
                f"Restore that file from where the cache was copied from; or run `kdcache verify "
                f"{self._files.locate('')} --repair`, which drops this block, and then the same dump-logits, which "
                "makes it anew.",
            )
        self._lost_lists.add(name)

    def _any_record(self, view: int, block: int) -> BlockRecord:
        """Return the record that lies in a block's place, whichever block it is of."""
        key = record_key(self.identity.name, view, block)

        def read() -> BlockRecord | None:
            try:
                data = self._files.get(key)
                return None if data is None else BlockRecord.from_bytes(data, self._files.locate(key))
            except UnreadableError:
                raise
            except CacheError as error:
                raise CorruptError(error.problem, self._remedy) from error

        found = self._files.confirm(key, read)
        if found is None:
            raise CacheError(
                f"View {view}, block {block} of teacher '{self.identity.name}' is not in the cache "
                f"({self._files.locate(key)}). Run the same dump-logits again to complete it."
            )
        return found

    def _is_own(self, view: int, block: int) -> bool:
        """Return whether a listed block has a record that is its own; that it has is remembered."""
        if (view, block) not in self._own:
            try:
                self.own_record(view, block)
            except UnreadableError:
                raise
            except CacheError:  # damaged, or dropped since it was listed
                return False
            self._own.add((view, block))
        return True

    def _has_length(self, key: str, length: int) -> bool:
        """Return whether a file has so many bytes."""
        return self._files.confirm(key, lambda: self._files.size(key) == length, bool)

    def _names_all(self, record: BlockRecord, block: int) -> bool:
        """Return whether a record names the block's chunks and no others."""
        return len(record.chunks) == self._chunks_of(block) and record.chunks.keys() == self.chunk_names(block)

    def _chunks_of(self, block: int) -> int:
        """Return how many chunks a block has, of all arrays: reckoned, as a file may say that there are billions."""
        return len(self._codecs) * len(self.layout.chunks_of(block))

    def _checked_chunk(self, record: BlockRecord, file: ChunkFile, name: str, view: int, block: int) -> bytes:
        stored = record.chunks.get(name)
        where = self._file_name(file, view, block)
        if stored is None or stored.length > self._codecs[file.array].most_bytes or not file.is_in(record.chunks):
            raise CorruptError(f"{where} is not what was written.", self._remedy)
        beyond = 1 if file.room == 1 else 0  # which is noticed where a file is its chunk
        start = file.start(name, record.chunks)

        def read() -> bytes:
            data = self._files.get_part(file.key, start, stored.length + beyond)
            if data is None or not stored.describes(data):
                state = "is missing" if data is None else "is not what was written"
                raise CorruptError(f"{where} {state}.", self._remedy)
            return data

        return self._files.confirm(file.key, read)

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


def _numbers(names: Iterable[str]) -> set[int]:
    """Return the numbers among some names, each written as a key has it: `1`, and not `01`."""
    return {int(name) for name in names if name.isdecimal() and str(int(name)) == name}
