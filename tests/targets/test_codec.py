"""Scalar codes stay within their steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.targets.array_codec import SqrtLevels, decode_label, encode_label

probabilities = st.floats(0, 1, width=32)


@given(st.lists(probabilities, min_size=1), st.integers(1, 8), st.sampled_from([0.0, 0.0031, 0.5]))
def test_levels_err_by_half_a_step_in_the_root(values: list[float], bits: int, floor: float) -> None:
    levels = SqrtLevels(bits, floor)
    prob = np.maximum(np.array(values, np.float32), np.float32(floor))
    read = levels.decode(levels.encode(prob))
    half_a_step = (1 - np.sqrt(floor)) / 2**bits / 2
    assert (np.abs(np.sqrt(read) - np.sqrt(prob)) <= half_a_step + 1e-6).all()
    assert (read > 0).all()


@given(st.lists(probabilities, min_size=2))
def test_levels_keep_the_order(values: list[float]) -> None:
    prob = np.sort(np.array(values, np.float32))
    assert (np.diff(SqrtLevels(6, 0.0031).encode(prob).astype(int)) >= 0).all()


@given(
    st.lists(st.lists(st.floats(2**-10, 1, width=32), max_size=40), min_size=1, max_size=5),
    st.integers(2, 8),
    st.sampled_from([0.0, 2**-10]),
)
def test_levels_of_a_row_can_be_chosen_to_keep_its_sum(rows: list[list[float]], bits: int, floor: float) -> None:
    levels = SqrtLevels(bits, floor)
    counts = np.array([len(row) for row in rows])
    prob = np.array([value for row in rows for value in row], np.float32)
    sums = np.array([sum(row) for row in rows], float)
    level = levels.encode_to_sum(prob, counts, sums, np.zeros(len(rows)))
    assert (np.abs(level.astype(int) - levels.encode(prob)) <= 1).all()
    largest_step = np.diff(levels.middles).max()
    ends = counts.cumsum()
    for total, end, count in zip(sums, ends, counts, strict=True):
        own = slice(end - count, end)
        at_an_end = ((level[own] == 0) | (level[own] == 2**bits - 1)).any()
        assert at_an_end or abs(levels.decode(level[own]).sum() - total) <= largest_step


def test_rows_that_come_out_right_are_rounded_to_the_nearest() -> None:
    levels, prob = SqrtLevels(5, 0.0033), np.array([0.01, 0.02, 0.3], np.float32)
    sums = levels.decode(levels.encode(prob)).sum(keepdims=True).astype(float) + 0.01
    found = levels.encode_to_sum(prob, np.array([3]), sums, np.array([0.02]))
    assert found.tolist() == levels.encode(prob).tolist()
    moved = levels.encode_to_sum(prob, np.array([3]), sums, np.array([0.001]))
    assert moved.tolist() != levels.encode(prob).tolist()


@given(st.floats(-39.9, 0))
def test_labels_err_by_a_tenth_of_a_percent(log_prob: float) -> None:
    prob = np.exp(np.array([[log_prob, log_prob]], np.float64)).astype(np.float32)
    assert decode_label(encode_label(prob)) == pytest.approx(prob, rel=1e-3)


def test_absent_labels_are_zero_and_impossible_ones_the_least() -> None:
    prob = np.array([[np.nan, 0.0], [1.0, 1e-30]], np.float32)
    code = encode_label(prob)
    assert code[0, 0] == 0
    assert code[0, 1] == code[1, 1] == 65535
    assert np.isnan(decode_label(code)[0, 0])
    assert decode_label(code)[1, 0] == 1
