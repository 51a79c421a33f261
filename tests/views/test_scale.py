"""Coordinates at the reference size become coordinates at the rendered size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.views.pixels.scale import rescale


@given(st.integers(-512, 512), st.integers(1, 512), st.integers(1, 512))
def test_a_coordinate_is_multiplied_and_rounded(coordinate, size, reference):
    exact = coordinate * size / reference
    got = rescale(np.array([coordinate]), size, reference)[0]
    assert abs(got - exact) <= 0.5 + 1e-9
    assert rescale(torch.tensor([coordinate]), size, reference).item() == got


@pytest.mark.parametrize("size", [1, 7, 160, 224, 225, 600])
def test_edges_stay_edges_and_order_is_kept(size):
    scaled = rescale(np.arange(225), size, 224)
    assert scaled[0] == 0
    assert scaled[224] == size
    assert (np.diff(scaled) >= 0).all()


def test_halves_go_up():
    assert rescale(np.array([1, 3, -1]), 1, 2).tolist() == [1, 2, 0]
