"""Functions of ragged rows do what a loop over the rows does."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdcache.targets.ragged import first_maxima, row_maxima, row_sums, row_totals, starts_of

rows = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for row in rows for value in row], np.int32), np.array([len(row) for row in rows], np.int64)


@given(rows)
def test_reductions(rows: list[list[int]]) -> None:
    values, counts = flat(rows)
    assert row_sums(values, counts).tolist() == [sum(row) for row in rows]
    assert row_maxima(values, counts).tolist() == [max(row, default=0) for row in rows]


@given(rows)
def test_totals_begin_anew_in_each_row(rows: list[list[int]]) -> None:
    values, counts = flat(rows)
    assert row_totals(values, counts).tolist() == [sum(row[: at + 1]) for row in rows for at in range(len(row))]


@given(rows)
def test_the_first_of_the_largest_is_found(rows: list[list[int]]) -> None:
    values, counts = flat(rows)
    starts = starts_of(counts).tolist()
    expected = [start + row.index(max(row)) for start, row in zip(starts, rows, strict=True) if row]
    assert first_maxima(values, counts).tolist() == expected
