"""A view set: samples, policy, seed and windows, which together fix every view."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from kdcache.data.index import Index
from kdcache.data.order import order
from kdcache.views.orders import OrdersAhead
from kdcache.views.plan import Plan, make_plan
from kdcache.views.policy import Policy


class Span(NamedTuple):
    """Rows start..stop-1 of a view. `start` is even, `stop` is even or the view's end: pairs are never split."""

    view: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Picks:
    """Rows of the views of one group, pair by pair: rows 2j and 2j+1 of a view, one after the other.

    view, row: of each; a view's odd last row may come at the very end alone.
    """

    view: Int64[np.ndarray, "b"]
    row: Int64[np.ndarray, "b"]

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, span: Span) -> "Picks":
        """The rows of a span."""
        row = np.arange(span.start, span.stop, dtype=np.int64)
        return cls(np.full_like(row, span.view), row)


@dataclass(frozen=True)
class Rows:
    """What is known of some rows before any pixel.

    Attributes:
        samples: positions in the index.
        plan: their augmentation.
        labels: own label and, where the row is mixed, the partner's; -1 for none.
    """

    samples: Int64[np.ndarray, "b"]
    plan: Plan
    labels: Int64[np.ndarray, "b 2"]

    @property
    def weight(self) -> Float32[np.ndarray, "b"]:
        """Each row's share of itself, 1 where it is not mixed."""
        return self.plan.row_weight()


class ViewSet:
    """Every view of some samples under one policy and seed: a pure function from spans to rows."""

    def __init__(self, index: Index, policy: Policy, seed: int, windows: Int32[np.ndarray, "n"]) -> None:
        self.index, self.policy, self.seed, self.windows = index, policy, seed, windows
        self._orders = OrdersAhead(self._compute_order)

    def __len__(self) -> int:
        return len(self.index)

    def order(self, view: int) -> Int64[np.ndarray, "n"]:
        """The samples in the order of `view`, which the views of its group share."""
        return self._orders.get(view // self.policy.repeats)

    def prepare_order(self, view: int) -> None:
        """Begin to compute the order of `view` in a thread, so that no batch waits for it; `close` ends the thread.

        To be called when rows of the view before it have been asked for: of former orders the last one alone is kept.
        """
        self._orders.prepare(view // self.policy.repeats)

    def close(self) -> None:
        """End the thread that `prepare_order` started; the view set can be used again."""
        self._orders.close()

    def _compute_order(self, group: int, pause: Callable[[], None]) -> Int64[np.ndarray, "n"]:
        return order(np.asarray(self.index.key_hash), self.windows, self.seed, group, pause)

    def rows(self, where: Span | Picks) -> Rows:
        """Samples, plan and labels of some rows."""
        picks = self._checked(where) if isinstance(where, Span) else where
        samples = self.order(int(picks.view[0]) if len(picks) else 0)[picks.row]
        index = self.index
        plan = make_plan(
            self.policy,
            self.seed,
            picks.view,
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

    def _checked(self, span: Span) -> Picks:
        _, start, stop = span
        if start % 2 or (stop % 2 and stop != len(self)) or not 0 <= start <= stop <= len(self):
            raise ValueError(f"{span} splits a pair or leaves the view's {len(self)} rows")
        return Picks.of(span)
