"""The steps of a batch: the first operation of each row, then the second of each row that has one, and so on.

A step reads each row from one buffer and writes it to another, so nothing is copied before it is changed. Rows go to
and fro between two buffers, and each begins on the side from which its last step ends in the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from kdcache.views.operations import Operation
from kdcache.views.plan import Plan


@dataclass(frozen=True)
class Step:
    """One operation for each of n rows.

    Attributes:
        number: 0 for the step that reads what was given; later ones read what earlier ones wrote.
        source: row of the batch that is read, or, after the first step, row of the two buffers one after the other.
        target: row of the two buffers that is written.
        op: codes of the operations. In the first step, `IDENTITY` is the operation of rows that have no other: they
            are copied.
        magnitude: argument of each operation.
        cubic: whether an operation that warps interpolates bicubically.
    """

    number: int
    source: Int32[np.ndarray, "n"]
    target: Int32[np.ndarray, "n"]
    op: UInt8[np.ndarray, "n"]
    magnitude: Float32[np.ndarray, "n"]
    cubic: Bool[np.ndarray, "n"]

    def part(self, chosen: Bool[np.ndarray, "n"]) -> "Step":
        """Return the step of some of its rows."""
        return Step(
            self.number,
            self.source[chosen],
            self.target[chosen],
            self.op[chosen],
            self.magnitude[chosen],
            self.cubic[chosen],
        )


def buffers_needed(plan: Plan) -> int:
    """Return how many buffers the steps of a plan need: 2, or 1 if no row has two operations."""
    return 2 if ((plan.op != Operation.IDENTITY).sum(1) > 1).any() else 1


def steps_of(plan: Plan) -> Iterator[Step]:
    """Iterate over the steps of a plan; what they make of the batch lies in the first buffer in the end."""
    rows = len(plan.op)
    # A column without operations, for rows and for plans that have none.
    op, magnitude, cubic = (np.pad(each, ((0, 0), (0, 1))) for each in (plan.op, plan.magnitude, plan.op_cubic))
    count = (op != Operation.IDENTITY).sum(1)
    # The operations of each row, moved to its front, with their order kept.
    order = np.argsort(op == Operation.IDENTITY, axis=1, kind="stable")
    for number in range(max(1, int(count.max(initial=0)))):
        row = np.flatnonzero((count > number) | (number == 0))
        column = order[row, number]
        # Buffer 0 after the last step of a row, so buffer 1 before it.
        buffer = (np.maximum(count[row], 1) - 1 - number) % 2
        source = row if number == 0 else (1 - buffer) * rows + row
        yield Step(
            number,
            source.astype(np.int32),
            (buffer * rows + row).astype(np.int32),
            op[row, column],
            magnitude[row, column],
            cubic[row, column],
        )
