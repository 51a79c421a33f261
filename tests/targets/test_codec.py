"""Scalar codes stay within their steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.targets.codec import (
    SqrtLevels,
    decode_label,
    decode_mass,
    encode_label,
    encode_mass,
)

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


@given(st.lists(probabilities, min_size=1))
def test_masses_err_by_half_a_step_in_the_root(values: list[float]) -> None:
    mass = np.array(values, np.float32)
    read = decode_mass(encode_mass(mass))
    assert (np.abs(np.sqrt(read.astype(float)) - np.sqrt(mass.astype(float))) <= 0.51 / 65535 + 1e-7).all()


def test_no_mass_and_all_mass_are_exact() -> None:
    assert decode_mass(encode_mass(np.array([0, 1], np.float32))).tolist() == [0, 1]


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
