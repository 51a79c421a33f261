"""A view set: the samples, the policy, the seed and the windows that together fix every view."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from kdcache.data.index import Index
from kdcache.data.order import order
from kdcache.errors import DataError
from kdcache.views.orders import OrdersAhead
from kdcache.views.plan import Plan, make_plan
from kdcache.views.policy import Policy


class RowRange(NamedTuple):
    """Rows start..stop-1 of a view. `start` is even and `stop` is even or the view's end, so pairs are never split."""

    view: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class RowIndices:
    """Rows of the views of one group, pair by pair: row 2j of a view is followed by row 2j+1.

    Attributes:
        view: view of each row.
        row: position of each row in its view. A view's odd last row may stand alone at the very end.
    """

    view: Int64[np.ndarray, "b"]
    row: Int64[np.ndarray, "b"]

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, row_range: RowRange) -> "RowIndices":
        """Return the rows of a range, one by one."""
        row = np.arange(row_range.start, row_range.stop, dtype=np.int64)
        return cls(np.full_like(row, row_range.view), row)


@dataclass(frozen=True)
class Rows:
    """Everything that is known of some rows before their images are read.

    Attributes:
        samples: positions of the samples in the index.
        plan: augmentation of the rows.
        labels: label of each row and, where the row is mixed, its partner's label; -1 for none.
    """

    samples: Int64[np.ndarray, "b"]
    plan: Plan
    labels: Int64[np.ndarray, "b 2"]

    @property
    def weight(self) -> Float32[np.ndarray, "b"]:
        """The share of itself that each row keeps, 1 where it is not mixed."""
        return self.plan.row_weight()


class ViewSet:
    """Every view of some samples under one policy and seed: a pure function from row ranges or row indices to rows."""

    def __init__(
        self,
        index: Index,
        policy: Policy,
        seed: int,
        windows: Int32[np.ndarray, "n"],
        lost: Int64[np.ndarray, "k"] | None = None,
    ) -> None:
        """Fix the views of the samples in `index`.

        Args:
            index: samples, with their keys, sizes and labels.
            policy: distribution of the augmentations.
            seed: seed of all draws, 0 <= seed < 2**32.
            windows: window of each sample, numbered from 0, as stored with the view set.
            lost: positions of samples that cannot be trained on, ascending; None for those that the index marks.
        """
        self.index, self.policy, self.seed, self.windows = index, policy, seed, windows
        self.lost = np.asarray(index.lost) if lost is None else lost
        self._orders = OrdersAhead(self._compute_order)
        self._replacement_pairs = lru_cache(maxsize=4)(self._find_replacement_pairs)

    def __len__(self) -> int:
        return len(self.index)

    def order(self, view: int) -> Int64[np.ndarray, "n"]:
        """Return the samples in the order of `view`, which the views of its group share."""
        return self._orders.get(view // self.policy.repeats)

    def with_own_orders(self) -> "ViewSet":
        """Return the same view set for one consumer: closing it ends nothing that another consumer waits for."""
        own = copy.copy(self)
        own._orders = self._orders.fork()
        return own

    def prepare_order(self, view: int) -> None:
        """Begin to compute the order of `view` in a thread, so that no batch waits for it; `close` ends the thread.

        Call it once rows of the view before `view` have been asked for: of former orders only the last one is kept.
        """
        self._orders.prepare(view // self.policy.repeats)

    def close(self) -> None:
        """End the thread that `prepare_order` started and every wait for an order; no more rows can be had."""
        self._orders.close()

    def _compute_order(self, group: int, pause: Callable[[], None]) -> Int64[np.ndarray, "n"]:
        return order(np.asarray(self.index.key_hash), self.windows, self.seed, group, pause)

    def rows(self, where: RowRange | RowIndices) -> Rows:
        """Return the samples, the plan and the labels of some rows.

        Raises:
            ValueError: a range splits a pair or leaves the view.
        """
        indices = self._rows_of(where) if isinstance(where, RowRange) else where
        samples = self.order(int(indices.view[0]) if len(indices) else 0)[indices.row]
        index = self.index
        plan = make_plan(
            self.policy,
            self.seed,
            indices.view,
            np.asarray(index.key_hash[samples]),
            index.height[samples].astype(np.int64),
            index.width[samples].astype(np.int64),
        )
        own = index.label[samples].astype(np.int64)
        labels = np.stack([own, np.full_like(own, -1)], axis=1)
        mixed = plan.row_weight() < 1
        partner = np.arange(len(samples)) ^ 1
        labels[mixed, 1] = own[partner[mixed]]
        return Rows(samples, plan, labels)

    def without_lost(self, indices: RowIndices) -> RowIndices:
        """Replace each pair that holds a lost sample by another pair of its view, for a training.

        The replacement is the next pair that holds none, or the view's first such pair after the last one; it is then
        seen once more. So every step has all its rows, and a step without lost samples does not change.

        Args:
            indices: rows of whole pairs, of views that share an order.

        Raises:
            DataError: every pair holds a lost sample.
        """
        if not len(self.lost) or not len(indices):
            return indices
        pairs, replacement = self._replacement_pairs(int(indices.view[0]) // self.policy.repeats)
        if not len(pairs):
            return indices
        pair = indices.row[::2] // 2
        place = np.searchsorted(pairs, pair).clip(max=len(pairs) - 1)
        pair = np.where(pairs[place] == pair, replacement[place], pair)
        return RowIndices(indices.view, np.stack([2 * pair, 2 * pair + 1], axis=1).reshape(-1))

    def holds_lost(self, samples: Int64[np.ndarray, "b"]) -> Bool[np.ndarray, "b"]:
        """Return whether each row belongs to a pair that holds a lost sample.

        Args:
            samples: positions of the rows' samples, given pair by pair; an odd last row is a pair by itself.
        """
        lost = np.isin(samples, self.lost)
        paired = len(samples) // 2 * 2
        lost[:paired] = np.repeat(lost[:paired].reshape(-1, 2).any(axis=1), 2)
        return lost

    def _find_replacement_pairs(self, group: int) -> tuple[Int64[np.ndarray, "k"], Int64[np.ndarray, "k"]]:
        """Return the pairs of a group of views that hold a lost sample, ascending, and the replacement of each.

        Raises:
            DataError: every pair holds a lost sample.
        """
        pairs = len(self) // 2
        is_lost = np.zeros(len(self), bool)
        is_lost[self.lost] = True
        holds_one = is_lost[self.order(group * self.policy.repeats)[: 2 * pairs]].reshape(-1, 2).any(axis=1)
        found, whole = np.flatnonzero(holds_one), np.flatnonzero(~holds_one)
        if not len(whole):
            raise DataError(
                f"Every pair of a view holds one of the {len(self.lost):,} samples that are marked as lost, so there "
                f"is nothing to train on. Restore the shards in {self.index.shards_folder}."
            )
        following = np.searchsorted(whole, found)
        return found, whole[following % len(whole)]

    def _rows_of(self, row_range: RowRange) -> RowIndices:
        """Return the rows of a range. Raises ValueError where it splits a pair or leaves the view."""
        _, start, stop = row_range
        if start % 2 or (stop % 2 and stop != len(self)) or not 0 <= start <= stop <= len(self):
            raise ValueError(f"{row_range} splits a pair or leaves the view's {len(self)} rows")
        return RowIndices.of(row_range)
