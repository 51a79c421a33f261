"""Rows of different lengths, one after the other in flat arrays: what NumPy lacks for them.

`counts` has the length of each row; every function treats an empty row as nothing at all.
"""

import numpy as np
from jaxtyping import Int64, Integer, Num


def starts_of(counts: Integer[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
    """Return where each row begins."""
    return counts.cumsum(dtype=np.int64) - counts


def row_sums(values: Num[np.ndarray, " n"], counts: Integer[np.ndarray, " b"]) -> Num[np.ndarray, " b"]:
    """Return the sum of each row, 0 for an empty one."""
    return _reduce(np.add, values, counts)


def row_maxima(values: Num[np.ndarray, " n"], counts: Integer[np.ndarray, " b"]) -> Num[np.ndarray, " b"]:
    """Return the largest of each row, 0 for an empty one."""
    return _reduce(np.maximum, values, counts)


def row_totals(values: Num[np.ndarray, " n"], counts: Integer[np.ndarray, " b"]) -> Num[np.ndarray, " n"]:
    """Return the cumulative sum within each row, of the values' own type."""
    running = np.zeros(len(values) + 1, values.dtype)
    np.add.accumulate(values, out=running[1:])
    return running[1:] - np.repeat(running[starts_of(counts)], counts)


def first_maxima(values: Num[np.ndarray, " n"], counts: Integer[np.ndarray, " b"]) -> Int64[np.ndarray, " filled"]:
    """Return the place of the first largest entry of each row that is not empty."""
    rows = np.repeat(np.arange(len(counts)), counts)
    places = np.flatnonzero(values == row_maxima(values, counts)[rows])
    return places[np.diff(rows[places], prepend=-1) > 0]


def _reduce(operation: np.ufunc, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    found = np.zeros(len(counts), values.dtype)
    filled = counts > 0
    if values.size:
        found[filled] = operation.reduceat(values, starts_of(counts)[filled])
    return found
