"""Computation of the blocks that a cache is missing, shared with other processes."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from threading import Lock

from kdcache.cache.claims import Claims, block_claim
from kdcache.cache.entry import Entry
from kdcache.cache.tables import restore_tables
from kdcache.data.reader import SampleReader
from kdcache.dumping.pipeline import (
    BlockTurns,
    LaunchedBatch,
    TeacherBatch,
    launch,
    launch_ahead,
    queue_depth,
    use_threads_of_process,
)
from kdcache.dumping.top1 import Top1
from kdcache.dumping.waiting import Waiting
from kdcache.errors import RecordedError
from kdcache.loader.opening import OpenViews
from kdcache.loader.teacher_views import block_batches
from kdcache.models.teachers import Teacher
from kdcache.render.base import Renderer
from kdcache.runtime.prefetch import prefetch
from kdcache.runtime.progress import Progress, Task
from kdcache.targets.base import TargetCodec
from kdcache.views.stream import Views, stream_views
from kdcache.views.viewset import RowRange

#: First view and block of a dump.
FIRST = (0, 0)

#: Seconds between two checks of what other processes have written, once one has been met.
LOOK = 10.0


@dataclass(frozen=True)
class Source:
    """Views, renderer, teacher and codec, from which targets are computed.

    Attributes:
        imports: modules that were imported first, for the provenance.
    """

    opened: OpenViews
    reader: SampleReader
    renderer: Renderer
    teacher: Teacher
    codec: TargetCodec
    label_space: str
    imports: tuple[str, ...] = ()

    def with_own_orders(self) -> "Source":
        """Return the same source for one stream of outputs, whose view set can be closed with it."""
        return replace(self, opened=replace(self.opened, view_set=self.opened.view_set.with_own_orders()))

    @property
    def samples(self) -> int:
        """Number of rows of a view."""
        return len(self.opened.view_set)

    @property
    def block_rows(self) -> int:
        """Number of rows of a block; the last block of a view may have fewer."""
        return self.opened.identity.block_rows

    def batches(self, view: int, block: int) -> list[RowRange]:
        """Return the teacher's batches of a block."""
        return block_batches(
            view, block, samples=self.samples, block_rows=self.block_rows, batch_size=self.teacher.batch_size
        )

    def outputs(
        self, row_ranges: Iterable[RowRange], wait_for_turn: Callable[[], bool] = lambda: True
    ) -> Generator[TeacherBatch, None, None]:
        """Yield the teacher's outputs for each batch of views, in order; the next batch is launched before.

        The first batch of each block can measure the loss of a codec.

        wait_for_turn: called before a block is begun, see `launch_ahead`.
        """
        pending: deque[RowRange] = deque()

        def noted_ranges() -> Iterator[RowRange]:
            for row_range in row_ranges:
                pending.append(row_range)
                yield row_range

        def launch_batch(batch: tuple[Views, bool]) -> LaunchedBatch:
            views, is_first = batch
            return launch(self.teacher, self.codec, views, self.label_space, measure=is_first)

        with closing(stream_views(self.opened.view_set, self.reader, self.renderer, noted_ranges())) as stream:
            batches = ((views, pending.popleft().start % self.block_rows == 0) for views in stream)
            yield from launch_ahead(
                batches,
                launch_batch,
                LaunchedBatch.read,
                begins_block=lambda batch: batch[1],
                wait_for_turn=wait_for_turn,
            )

    def outputs_ahead(self, row_ranges: Iterable[RowRange], turns: BlockTurns) -> Generator[TeacherBatch, None, None]:
        """Yield what `outputs` does, computed in a thread of its own until the queue is full or it is nobody's turn."""

        def compute() -> Generator[TeacherBatch, None, None]:
            use_threads_of_process()
            yield from self.outputs(row_ranges, turns.wait)

        depth = queue_depth(self.codec, self.block_rows, self.teacher.batch_size)
        return prefetch(compute(), depth, "kdcache-teacher")


class MissingBlocks:
    """The missing blocks of some views, which are claimed one by one.

    Attributes:
        met: claim and description of the first block that another process was found to hold; None before.
    """

    def __init__(self, entry: Entry, views: int, claims: Claims, first_is_held: bool = False) -> None:
        """`first_is_held`: whether this process holds the claim on `FIRST` already."""
        self._entry, self._claims, self._first_is_held = entry, claims, first_is_held
        self.met: tuple[str, str] | None = None
        self._looked = time.monotonic()
        self._counting = Lock()
        #: Blocks found to be recorded by reading their records: a listing may be older.
        self._known: set[tuple[int, int]] = set()
        self._missing = {view: self._unrecorded(view) for view in range(views)}
        self._counted: set[tuple[int, int]] = set()
        self._elsewhere = 0

    @property
    def rows(self) -> int:
        """Number of rows of all blocks that were missing at the last check."""
        return sum(self._rows_of(block) for blocks in self._missing.values() for block in blocks)

    def has(self, view: int, block: int) -> bool:
        """Return whether a block was missing at the last check."""
        return block in self._missing[view]

    def look_at_others(self) -> None:
        """Check what has been recorded, at most every `LOOK` seconds, if another process has been met."""
        if self.met is not None and time.monotonic() - self._looked >= LOOK:
            self.look_again()

    def look_again(self) -> None:
        """Check which blocks have been recorded by other processes."""
        self._looked = time.monotonic()
        for view in [view for view, blocks in self._missing.items() if blocks]:
            missing = self._unrecorded(view)
            for block in self._missing[view] - missing:
                self._count(view, block)
            self._missing[view] = missing

    def take(self) -> Iterator[tuple[int, int]]:
        """Yield view and block of each missing block that could be claimed; end when no other is free now."""
        for view, blocks in list(self._missing.items()):
            for block in sorted(blocks):
                if not self._claims.take(self._name(view, block)):
                    if self.met is None and not (self._first_is_held and (view, block) == FIRST):
                        self.met = self._name(view, block), f"view {view}, block {block}"
                    continue
                if self._entry.is_recorded(view, block):
                    self._known.add((view, block))
                    self._count(view, block)  # recorded since the last check
                    self._claims.release(self._name(view, block))
                else:
                    yield view, block

    def next(self) -> tuple[str, str] | None:
        """Return claim and description of the first missing block; None if none is missing."""
        for view, blocks in self._missing.items():
            if blocks:
                return self._name(view, min(blocks)), f"view {view}, block {min(blocks)}"
        return None

    def view_after(self, view: int) -> int | None:
        """Return the next view that missed a block at the last check; None if there is none."""
        return next((later for later, blocks in self._missing.items() if later > view and blocks), None)

    def done(self, view: int, block: int) -> None:
        """Mark a block as counted by this process, and release its claim."""
        self._counted.add((view, block))
        self._claims.release(self._name(view, block))

    def rows_made_elsewhere(self) -> int:
        """Return the number of rows that other processes have recorded since the last call."""
        with self._counting:
            rows, self._elsewhere = self._elsewhere, 0
        return rows

    def _count(self, view: int, block: int) -> None:
        with self._counting:
            if (view, block) not in self._counted:
                self._counted.add((view, block))
                self._elsewhere += self._rows_of(block)

    def _unrecorded(self, view: int) -> set[int]:
        known = {block for number, block in self._known if number == view}
        return set(range(self._entry.layout.blocks)) - self._entry.recorded(view) - known

    def _rows_of(self, block: int) -> int:
        start, stop = self._entry.layout.block_range(block)
        return stop - start

    def _name(self, view: int, block: int) -> str:
        return block_claim(self._entry.identity.name, view, block)


@dataclass
class DumpWorker:
    """One process's computation of the missing blocks.

    Attributes:
        task: progress task, which counts the rows of all processes.
        held: outputs for the first batches of the block `FIRST`, whose claim is held; empty if it is not. They are
            dropped if the block is recorded, which happens if only a table that was learned from it was lost.
        top1: counts of the first block of this process; `held` is counted already.
        report_sharing: whether to log once that other processes share the work; not needed under torchrun.
        lost: name of the list of lost samples, for the records; None if no sample is lost.
        blocks, rows: number of blocks and rows that this process has written.
    """

    source: Source
    entry: Entry
    missing: MissingBlocks
    provenance: dict[str, str]
    progress: Progress
    task: Task
    waiting: Waiting
    held: list[TeacherBatch] = field(default_factory=list)
    top1: Top1 = field(default_factory=Top1)
    report_sharing: bool = True
    lost: str | None = None
    blocks: int = 0
    rows: int = 0

    def run(self) -> None:
        """Compute blocks until none is missing, and wait for those of other processes.

        If an error ends it, the caller releases the claims by closing them.
        """
        if self.held and not self.missing.has(*FIRST):
            self.held, self.top1 = [], Top1()
            self.missing.done(*FIRST)
        while self.missing.rows:
            self._make_free_blocks()
            self.missing.look_again()
            self.task.advance(self.missing.rows_made_elsewhere())
            wanted = self.missing.next()
            if wanted is not None:
                self.waiting.pause(*wanted)
        self._keep_tables()

    def _keep_tables(self) -> None:
        """Write the codec's tables again if another process has replaced them: targets cannot be decoded without."""
        restore_tables(self.entry.files, self.entry.codec, self.entry.identity)

    def _make_free_blocks(self) -> None:
        """Compute all free blocks in one stream, so that rendering does not pause at the end of a block.

        The teacher computes ahead of this thread, which encodes and writes (see `kdcache.dumping.pipeline`).
        """
        held, self.held = self.held, []
        rest_of_first = self.source.batches(*FIRST)[len(held) :] if held else []
        claimed: deque[tuple[int, int]] = deque()

        def free() -> Iterator[RowRange]:
            for view, block in self.missing.take():
                claimed.append((view, block))
                yield from self.source.batches(view, block)

        source = self.source.with_own_orders()
        view_set = source.opened.view_set

        def row_ranges() -> Iterator[RowRange]:
            for row_range in chain(rest_of_first, free()):
                yield row_range
                upcoming = self.missing.view_after(row_range.view)
                if upcoming is not None:
                    view_set.prepare_order(upcoming)

        turns = BlockTurns(may_begin=not held)
        # Whatever ends the block, a thread must wait neither for an order nor for its turn when it is joined.
        with closing(source.outputs_ahead(row_ranges(), turns)) as outputs, closing(view_set), closing(turns):
            if held:
                following = self._counted(islice(outputs, len(rest_of_first)))
                self._make_block(*FIRST, chain(self._advanced(held), following))
                held.clear()
                turns.finished()
            for first in outputs:
                view, block = claimed.popleft()
                rest = islice(outputs, len(self.source.batches(view, block)) - 1)
                self._make_block(view, block, self._counted(chain([first], rest)))
                turns.finished()

    def _make_block(self, view: int, block: int, outputs: Iterator[TeacherBatch]) -> None:
        """Write a claimed block and release its claim."""
        if self._write_block(view, block, outputs):
            start, stop = self.entry.layout.block_range(block)
            self.blocks, self.rows = self.blocks + 1, self.rows + stop - start
            if self.blocks == 1:
                self.top1.say(self.source.teacher.num_classes, self.source.label_space, self.progress)
        self.missing.done(view, block)
        self._note_others()

    def _note_others(self) -> None:
        """Log once that the work is shared, and count rows of other processes for the remaining time."""
        if self.report_sharing and self.missing.met is not None:
            self.report_sharing = False
            claim, what = self.missing.met
            holder = self.waiting.claims.holder(claim)
            who = holder.who if holder is not None else "another process"
            self.progress.say(f"The work is shared: {who} computes {what}. Its rows are counted, too.")
        self.missing.look_at_others()
        self.task.advance(self.missing.rows_made_elsewhere())

    def _write_block(self, view: int, block: int, outputs: Iterator[TeacherBatch]) -> bool:
        """Write a block batch by batch, so that at most the rows of one file are held in memory.

        Return False if another process has written it; `outputs` is consumed in both cases.
        """
        try:
            writer = self.entry.open_block(view, block)
            kl = None
            for batch in outputs:
                writer.append(batch.targets)
                if batch.loss is not None:
                    kl = batch.loss(self.entry.codec)
            if self.blocks == 0:
                self._keep_tables()
            writer.finish(self.provenance, kl, self.lost)
        except RecordedError:
            deque(outputs, maxlen=0)
            return False
        return True

    def _advanced(self, outputs: Iterable[TeacherBatch]) -> Iterator[TeacherBatch]:
        for batch in outputs:
            self.task.advance(len(batch.targets))
            yield batch

    def _counted(self, outputs: Iterable[TeacherBatch]) -> Iterator[TeacherBatch]:
        for batch in outputs:
            if self.blocks == 0:
                self.top1.count(batch)
            self.task.advance(len(batch.targets))
            yield batch
