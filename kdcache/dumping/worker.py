"""Making the blocks that a cache lacks, beside whatever other processes make of them."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from threading import Lock

from kdcache.cache.claims import Claims, block_claim
from kdcache.cache.entry import Entry
from kdcache.cache.tables import restore_tables
from kdcache.data.reader import SampleReader
from kdcache.dumping.top1 import Top1
from kdcache.dumping.waiting import Waiting
from kdcache.errors import RecordedError
from kdcache.loader.opening import OpenViews
from kdcache.loader.teacher_views import TeacherBatch, block_batches, compute_targets
from kdcache.models.teachers import Teacher
from kdcache.render.base import Renderer
from kdcache.runtime.progress import Progress, Task
from kdcache.targets.base import TargetCodec
from kdcache.views.stream import Views, stream_views
from kdcache.views.viewset import RowRange

#: View and block that a dump begins with.
FIRST = (0, 0)

#: Seconds between two looks at what others have made meanwhile, once they are known to be there.
LOOK = 10.0


@dataclass(frozen=True)
class Source:
    """Everything that answers come from."""

    opened: OpenViews
    reader: SampleReader
    renderer: Renderer
    teacher: Teacher
    codec: TargetCodec
    label_space: str

    @property
    def samples(self) -> int:
        """Rows of a view."""
        return len(self.opened.view_set)

    @property
    def block_rows(self) -> int:
        """Rows of a block; the last of a view may have fewer."""
        return self.opened.identity.block_rows

    def batches(self, view: int, block: int) -> list[RowRange]:
        """The teacher's batches that make a block."""
        return block_batches(
            view, block, samples=self.samples, block_rows=self.block_rows, batch_size=self.teacher.batch_size
        )

    def answers(self, spans: Iterable[RowRange]) -> Generator[tuple[Views, TeacherBatch], None, None]:
        """Each batch of views with the teacher's answers, in order; of the first of each block it can be told what a
        codec loses.
        """
        asked: deque[RowRange] = deque()

        def noted() -> Iterator[RowRange]:
            for span in spans:
                asked.append(span)
                yield span

        with closing(stream_views(self.opened.view_set, self.reader, self.renderer, noted())) as stream:
            for views in stream:
                first = asked.popleft().start % self.block_rows == 0
                yield views, compute_targets(self.teacher, self.codec, views, self.label_space, measure=first)


class MissingBlocks:
    """The blocks of some views that are not recorded, claimed one by one.

    Attributes:
        met: claim and words for the first block that another process turned out to be at; None so far.
    """

    def __init__(self, entry: Entry, views: int, claims: Claims, begun: bool = False) -> None:
        """`begun`: whether this process holds the claim on `FIRST` already."""
        self._entry, self._claims, self._begun = entry, claims, begun
        self.met: tuple[str, str] | None = None
        self._looked = time.monotonic()
        self._counting = Lock()
        #: Found to be recorded by a look at their records: a listing may be one of before.
        self._known: set[tuple[int, int]] = set()
        self._missing = {view: self._unrecorded(view) for view in range(views)}
        self._counted: set[tuple[int, int]] = set()
        self._elsewhere = 0

    @property
    def rows(self) -> int:
        """Rows of all blocks that were missing at the last look."""
        return sum(self._rows_of(block) for blocks in self._missing.values() for block in blocks)

    def lacks(self, view: int, block: int) -> bool:
        """Whether a block was missing at the last look."""
        return block in self._missing[view]

    def look_at_others(self) -> None:
        """See now and then what has been made meanwhile, if there is anybody to make it."""
        if self.met is not None and time.monotonic() - self._looked >= LOOK:
            self.look_again()

    def look_again(self) -> None:
        """See what has been made meanwhile."""
        self._looked = time.monotonic()
        for view in [view for view, blocks in self._missing.items() if blocks]:
            missing = self._unrecorded(view)
            for block in self._missing[view] - missing:
                self._count(view, block)
            self._missing[view] = missing

    def take(self) -> Iterator[tuple[int, int]]:
        """View and block of whatever nobody else is at, claimed; ends when nothing more is free just now."""
        for view, blocks in list(self._missing.items()):
            for block in sorted(blocks):
                if not self._claims.take(self._name(view, block)):
                    if self.met is None and not (self._begun and (view, block) == FIRST):
                        self.met = self._name(view, block), f"view {view}, block {block}"
                    continue
                if self._entry.is_recorded(view, block):
                    self._known.add((view, block))
                    self._count(view, block)  # recorded since the last look
                    self._claims.release(self._name(view, block))
                else:
                    yield view, block

    def next(self) -> tuple[str, str] | None:
        """The claim and the words for the first block that is missing; None where none is."""
        for view, blocks in self._missing.items():
            if blocks:
                return self._name(view, min(blocks)), f"view {view}, block {min(blocks)}"
        return None

    def view_after(self, view: int) -> int | None:
        """The next view that lacked a block at the last look; None where none does."""
        return next((later for later, blocks in self._missing.items() if later > view and blocks), None)

    def done(self, view: int, block: int) -> None:
        """This process has done with a block, the rows of which it has counted, and gives its claim back."""
        self._counted.add((view, block))
        self._claims.release(self._name(view, block))

    def rows_made_elsewhere(self) -> int:
        """Rows that other processes turn out to have made since the last call."""
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
    """One process's work at the missing blocks.

    Attributes:
        task: is told of every row, whoever makes it.
        begun: answers to the first batches of the block `FIRST`, which is claimed already; none where it is not. They
            are of no use where the block is recorded, and only a table that was learned from it was lost.
        top1: of the first block that is made here; given with what was begun counted.
        tell: whether to say once that others share the work; they are expected where this process is one of several.
        lost: the list of samples that are lost now, as records name it; None where none are.
        blocks, rows: that were made here.
    """

    source: Source
    entry: Entry
    missing: MissingBlocks
    provenance: dict[str, str]
    progress: Progress
    task: Task
    waiting: Waiting
    begun: list[TeacherBatch] = field(default_factory=list)
    top1: Top1 = field(default_factory=Top1)
    tell: bool = True
    lost: str | None = None
    blocks: int = 0
    rows: int = 0

    def run(self) -> None:
        """Make blocks until none is missing, waiting for those that other processes are making.

        What was claimed when an error ends it is for the caller to give back, by closing the claims.
        """
        if self.begun and not self.missing.lacks(*FIRST):
            self.begun, self.top1 = [], Top1()
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
        """What is packed with a table is of no use without it, and another process may have put its own meanwhile."""
        restore_tables(self.entry.files, self.entry.codec, self.entry.identity)

    def _make_free_blocks(self) -> None:
        """One stream over all blocks that are free: rendering does not pause at a block's end."""
        held, self.begun = self.begun, []
        rest_of_first = self.source.batches(*FIRST)[len(held) :] if held else []
        claimed: deque[tuple[int, int]] = deque()

        def free() -> Iterator[RowRange]:
            for view, block in self.missing.take():
                claimed.append((view, block))
                yield from self.source.batches(view, block)

        view_set = self.source.opened.view_set

        def spans() -> Iterator[RowRange]:
            for span in chain(rest_of_first, free()):
                yield span
                upcoming = self.missing.view_after(span.view)
                if upcoming is not None:
                    view_set.prepare_order(upcoming)

        with closing(view_set), closing(self.source.answers(spans())) as answers:
            if held:
                following = self._counted(islice(answers, len(rest_of_first)))
                self._make_block(*FIRST, chain(self._told(held), following))
                held.clear()
            for first in answers:
                view, block = claimed.popleft()
                rest = islice(answers, len(self.source.batches(view, block)) - 1)
                self._make_block(view, block, self._counted(chain([first], rest)))

    def _make_block(self, view: int, block: int, answers: Iterator[TeacherBatch]) -> None:
        """Write a claimed block and give its claim back."""
        if self._write_block(view, block, answers):
            start, stop = self.entry.layout.block_range(block)
            self.blocks, self.rows = self.blocks + 1, self.rows + stop - start
            if self.blocks == 1:
                self.top1.say(self.source.teacher.num_classes, self.source.label_space, self.progress)
        self.missing.done(view, block)
        self._note_others()

    def _note_others(self) -> None:
        """Say once that the work is shared, and count what is made elsewhere, so that the time left is that of all."""
        if self.tell and self.missing.met is not None:
            self.tell = False
            claim, what = self.missing.met
            holder = self.waiting.claims.holder(claim)
            who = holder.who if holder is not None else "another process"
            self.progress.say(f"The work is shared: {who} is at {what}. What it makes is counted, too.")
        self.missing.look_at_others()
        self.task.advance(self.missing.rows_made_elsewhere())

    def _write_block(self, view: int, block: int, answers: Iterator[TeacherBatch]) -> bool:
        """Write a block as its answers come, so that no more of them is held than a file has.

        False where another process writes it too; the answers are used up either way.
        """
        try:
            writer = self.entry.open_block(view, block)
            kl = None
            for answered in answers:
                writer.append(answered.targets)
                if answered.loss is not None:
                    kl = answered.loss(self.entry.codec)
            if self.blocks == 0:
                self._keep_tables()
            writer.finish(self.provenance, kl, self.lost)
        except RecordedError:
            deque(answers, maxlen=0)
            return False
        return True

    def _told(self, answers: Iterable[TeacherBatch]) -> Iterator[TeacherBatch]:
        for answered in answers:
            self.task.advance(len(answered.targets))
            yield answered

    def _counted(self, answers: Iterable[tuple[Views, TeacherBatch]]) -> Iterator[TeacherBatch]:
        for views, answered in answers:
            if self.blocks == 0:
                self.top1.count(views, answered)
            self.task.advance(len(answered.targets))
            yield answered
