"""Which rows a training sees at each step: pairs of the views that there are, for as many epochs as are wanted."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from kdcache.data.order import reused_pairs
from kdcache.errors import UsageError
from kdcache.views.orders import OrdersAhead
from kdcache.views.viewset import RowIndices

UNIT_ROWS = 1024
"""Neighbouring rows that stay near each other when a view is seen again; an eighth of a block where that is less.

A few units are held at once, of whatever targets: 1,024 answers of 21,841 classes in float32 are 89 MB. And it says
nothing of targets, because the arms of a comparison have to see one order, whatever they learn from.
"""


@dataclass(frozen=True)
class Schedule:
    """Each step's rows, as a pure function of the step.

    Training counts pairs: a view has P = samples // 2 of them, and an epoch shows P pairs. Views gm..gm+m-1 are a
    group that shares one order; epoch e belongs to group floor(e / m) mod (V / m), whose m P pair-views run with the
    view fastest, so that a pair's m views follow each other (repeated augmentation: E. Hoffer et al., "Augment your
    batch", CVPR 2020; M. Berman et al., "MultiGrain", 2019). A group that comes round again is shuffled anew
    (`reused_pairs`), in pairs: who is mixed with whom never changes.

    Attributes:
        samples: of the data set; an odd last row is never trained on.
        views: V that are used, a multiple of `repeats`.
        repeats: m of the policy.
        batch_size: rows of a step, even; an epoch's last partial batch is left out, as in timm.
        epochs: to train; more than there are views shows them again.
        block_rows: of the view set.
        seed: of the view set.
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
        """Whole batches of pairs."""
        return self.samples // 2 // (self.batch_size // 2)

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def walks_in_order(self) -> bool:
        """Whether every epoch walks through a view of its own, row by row."""
        return self.repeats == 1 and self.epochs <= self.views

    def upcoming_view(self, step: int) -> int | None:
        """The first view of the group that comes next, in the second half of a visit; None else, and in the last one.

        A visit is one pass through the views of a group. Its second half is when whoever reads in other threads has
        long done with the visit before.
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
        """The orders in which the pairs of each visit are seen, by the number of the visit: of views seen again."""
        unit_pairs = max(1, min(UNIT_ROWS, self.block_rows // 8) // 2)

        def compute(visit: int, pause: Callable[[], None]) -> Int64[np.ndarray, "pairs"]:
            cycle, group = divmod(visit, self._groups)
            return reused_pairs(self.samples // 2, self.block_rows // 2, unit_pairs, self.seed, group, cycle, pause)

        return OrdersAhead(compute)

    def batches(
        self, first_step: int = 0, rank: int = 0, world: int = 1, orders: OrdersAhead | None = None
    ) -> Iterator[RowIndices]:
        """The rows of each step from `first_step` on: those of process `rank` of `world`, whose shares are equal.

        `world` must divide the pairs of a batch. Processes share a batch by row and view, so that each reads a part of
        the chunks that the batch lies in, mostly the same part for the next: batches of a stretch would else have every
        process read all of it. The views of a sample go to one process, which reads the image once.

        orders: `reused_orders`, for several that walk through one schedule at once; who gives them closes them.
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
