"""Levels mean what they mean to timm."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.data import auto_augment as timm_aa

from kdcache.views.operations import LEVELS
from kdcache.views.schemes.levels import Direction, compute_arguments

HPARAMS = {"translate_const": 100, "img_mean": (124, 116, 104)}
# Absolute pixels, which no policy of timm's uses.
ABSOLUTE = {"TranslateX", "TranslateY"}
TIMMS = sorted(timm_aa.LEVEL_TO_ARG.keys() - ABSOLUTE)


def argument(name, level, spare=0.25):
    _, levels = LEVELS[name]
    chosen = np.zeros((1, 1), np.int64)
    return compute_arguments((levels,), chosen, np.full((1, 1), level), np.full((1, 1), spare))[0, 0]


def test_every_operation_of_timms_policies_is_there():
    assert LEVELS.keys() >= {*TIMMS}


@pytest.mark.parametrize("name", TIMMS)
@given(level=st.floats(0, 10) | st.integers(0, 10).map(float), negative=st.booleans())
def test_arguments_are_timms(name, level, negative):
    convert = timm_aa.LEVEL_TO_ARG[name]
    with mock.patch.object(timm_aa.random, "random", return_value=0.75 if negative else 0.25):
        theirs = convert(level, HPARAMS)[0] if convert else 0.0
        if name == "Desaturate":
            theirs = min(1.0, max(0.0, 1.0 - theirs))
        if name == "GaussianBlurRand":
            theirs = 0.1 + (2.0 * theirs - 0.1) * timm_aa.random.random()
    assert argument(name, level, 0.75 if negative else 0.25) == pytest.approx(theirs, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", sorted(LEVELS))
def test_levels_above_ten_stay_within_what_an_operation_takes(name):
    low, high = LEVELS[name][0].spec.argument_range
    for level in (10.0, 12.5, 30.0):
        assert low <= argument(name, level) <= high


def test_whole_arguments_are_whole():
    for name in ("Posterize", "PosterizeIncreasing", "PosterizeOriginal", "Solarize", "SolarizeAdd"):
        values = [argument(name, level) for level in np.linspace(0, 10, 37)]
        assert all(value == int(value) for value in values)


def test_the_sign_comes_from_the_spare_number():
    for name, (_, levels) in LEVELS.items():
        same = argument(name, 6.0, 0.2) == argument(name, 6.0, 0.8)
        assert same == (levels.direction in (Direction.UP, Direction.DOWN))
