"""The schedule of a training: which rows of which views each step takes, over all epochs."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from kdcache.data.order import reused_pairs
from kdcache.errors import UsageError
from kdcache.views.orders import OrdersAhead
from kdcache.views.viewset import RowIndices

#: Number of neighbouring rows that stay near each other when a view is seen again; an eighth of a block where that is
#: less. A few units are in memory at once: 1,024 rows of 21,841 classes in float32 are 89 MB. The number is the same
#: for every kind of targets, because all arms of a comparison have to see the same order.
UNIT_ROWS = 1024


@dataclass(frozen=True)
class Schedule:
    """The rows of each step, as a pure function of the step.

    Training counts pairs: a view has P = samples // 2 of them, and an epoch shows P pairs. Views gm..gm+m-1 are a
    group that shares one order; epoch e belongs to group floor(e / m) mod (V / m), whose m P pair-views run with the
    view fastest, so that a pair's m views follow each other (repeated augmentation: E. Hoffer et al., "Augment your
    batch", CVPR 2020; M. Berman et al., "MultiGrain", 2019). A group that comes round again is shuffled anew
    (`reused_pairs`), in pairs: who is mixed with whom never changes.

    Attributes:
        samples: number of samples of the data set; an odd last row is never trained on.
        views: number V of views that are used, a multiple of `repeats`.
        repeats: number m of views of a group, as the policy has it.
        batch_size: number of rows of a step, even; an epoch's last partial batch is left out, as in timm.
        epochs: number of epochs; where it is larger than the number of views, views are shown again.
        block_rows: number of rows of a block of the view set.
        seed: seed of the view set.
    """

    samples: int
    views: int
    repeats: int
    batch_size: int
    epochs: int
    block_rows: int
    seed: int

    def __post_init__(self) -> None:
        if self.views % self.repeats or self.views < 1 or self.batch_size % 2:
            raise ValueError(f"{self.views} views of {self.repeats} repeats in batches of {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of one epoch: its whole batches."""
        return self.samples // 2 // (self.batch_size // 2)

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def walks_in_order(self) -> bool:
        """Whether every epoch walks through a view of its own, row by row."""
        return self.repeats == 1 and self.epochs <= self.views

    def largest_share(self, world: int) -> int:
        """Return the largest number of rows of a step that one of `world` processes takes."""
        return 2 * -(-(self.batch_size // 2) // world)

    def first_view(self, step: int) -> int:
        """Return the first view of the group that is shown in `step`; of the last step, for steps after it."""
        visit = min(step, self.steps - 1) // (self.repeats * self.steps_per_epoch)
        return visit % self._groups * self.repeats

    def reused_visit(self, step: int) -> int | None:
        """Return the number of the visit that `step` lies in, where its views were seen before; else None."""
        visit = min(step, self.steps - 1) // (self.repeats * self.steps_per_epoch)
        return visit if visit >= self._groups else None

    def new_views(self, step: int) -> range:
        """Return the views whose first rows are shown in `step`; empty where it begins none, or shows them again."""
        visit, place = divmod(step, self.repeats * self.steps_per_epoch)
        if place or visit >= self._groups or step >= self.steps:
            return range(0)
        return range(visit * self.repeats, (visit + 1) * self.repeats)

    def upcoming_view(self, step: int) -> int | None:
        """Return the first view of the next group, if `step` is in the second half of a visit that is not the last.

        A visit is one pass through the views of a group. In its second half, threads that read ahead have finished
        the visit before. Returns None for all other steps.
        """
        visit = self._upcoming_visit(step)
        return None if visit is None else visit % self._groups * self.repeats

    def _upcoming_visit(self, step: int) -> int | None:
        visit, place = divmod(step, self.repeats * self.steps_per_epoch)
        is_last = (visit + 1) * self.repeats >= self.epochs
        return None if is_last or 2 * place < self.repeats * self.steps_per_epoch - 1 else visit + 1

    @property
    def _groups(self) -> int:
        return self.views // self.repeats

    def reused_orders(self) -> OrdersAhead:
        """Return the orders of pairs in which views are seen again, by the number of the visit."""
        unit_pairs = max(1, min(UNIT_ROWS, self.block_rows // 8) // 2)

        def compute(visit: int, pause: Callable[[], None]) -> Int64[np.ndarray, "pairs"]:
            cycle, group = divmod(visit, self._groups)
            return reused_pairs(self.samples // 2, self.block_rows // 2, unit_pairs, self.seed, group, cycle, pause)

        return OrdersAhead(compute)

    def batches(
        self, first_step: int = 0, rank: int = 0, world: int = 1, orders: OrdersAhead | None = None
    ) -> Iterator[RowIndices]:
        """Yield the rows of each step from `first_step` on that process `rank` of `world` takes.

        The shares of all processes are equal. A batch is divided by row and view: each process reads a part of the
        chunks in which the batch lies, and mostly the same part for the next batch. Divided in the batch's own order,
        every process would read all of them. All views of a sample go to one process, which reads the image once.

        Args:
            first_step: first step, counted from the start of the training.
            rank: number of this process, in 0..world-1.
            world: number of processes, which divides the number of pairs of a batch.
            orders: result of `reused_orders`, where several iterators of one schedule share it; the caller closes it.
                None for orders of this iterator's own.
        """
        if orders is None:
            with closing(self.reused_orders()) as own:
                yield from self.batches(first_step, rank, world, own)
            return
        pairs, half = self.samples // 2, self.batch_size // 2
        share = slice(half * rank // world, half * (rank + 1) // world)
        held, order = -1, np.empty(0, np.int64)
        for step in range(first_step, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            visit, part = divmod(epoch, self.repeats)
            cycle, group = divmod(visit, self._groups)
            position = part * pairs + place * half + np.arange(half)
            pair = position // self.repeats
            if cycle > 0:
                if visit != held:
                    held, order = visit, orders.get(visit)
                pair = order[pair]
            view = group * self.repeats + position % self.repeats
            if world > 1:
                mine = np.sort(np.lexsort((view, pair))[share])
                view, pair = view[mine], pair[mine]
            row = np.stack([2 * pair, 2 * pair + 1], axis=1).reshape(-1)
            yield RowIndices(np.repeat(view, 2), row)
            upcoming = self._upcoming_visit(step)
            if upcoming is not None and upcoming >= self._groups:
                orders.prepare(upcoming)


def require_whole_pairs(batch_size: int, world_size: int) -> None:
    """Raise UsageError where a batch of all processes cannot be divided among them in whole pairs."""
    if batch_size % (2 * world_size):
        raise UsageError(
            f"A batch of {batch_size} cannot be divided among {world_size} processes in whole pairs: "
            f"give a --batch-size that is a multiple of {2 * world_size}."
        )


def require_steps(schedule: Schedule) -> Schedule:
    """Return the schedule; raise UsageError where its batch is larger than the data set."""
    if schedule.steps_per_epoch == 0:
        raise UsageError(
            f"A batch of {schedule.batch_size} is larger than the {schedule.samples // 2 * 2:,} paired samples, so an "
            "epoch has no step: give a smaller --batch-size."
        )
    return schedule
