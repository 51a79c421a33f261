"""Erased boxes are drawn as timm's RandomErasing draws them."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.random_erasing import RandomErasing

from kdcache.views.policy import Policy
from support.distributions import counts_differ, differ
from support.plans import plan_of

COUNT = 8_000


class Boxes:
    """Stands for an image: remembers which parts of it are written to."""

    def __init__(self):
        self.boxes = []

    def __setitem__(self, where, _):
        _, rows, columns = where
        self.boxes.append((rows.start, columns.start, rows.stop, columns.stop))


def timms(prob, count, size):
    random.seed(0)
    transform = RandomErasing(prob, mode="const", max_count=count, device="cpu")
    out = np.zeros((COUNT, count, 4), int)
    for row in range(COUNT):
        image = Boxes()
        transform._erase(image, 1, size, size, torch.float32)
        out[row, : len(image.boxes)] = np.array(image.boxes).reshape(-1, 4)
    return out


def ours(prob, count, size):
    policy = Policy(erase_prob=prob, erase_count=count, reference_size=size)
    return plan_of(policy, 3 * COUNT, seed=2, view=1).erase


def differences(ours, theirs):
    there = [boxes[..., 2] > boxes[..., 0] for boxes in (ours, theirs)]
    found = ["number"] if counts_differ(*(each.sum(axis=1) for each in there)) else []
    box = [boxes[each].astype(float) for boxes, each in zip((ours, theirs), there, strict=True)]
    for column, name in enumerate(("top", "left", "bottom", "right")):
        if differ(*(part[:, column] for part in box)):
            found.append(name)
    height, width = ([part[:, axis + 2] - part[:, axis] for part in box] for axis in (0, 1))
    if differ(*(a * b for a, b in zip(height, width, strict=True))):
        found.append("area")
    if differ(*(a / b for a, b in zip(height, width, strict=True))):
        found.append("ratio")
    return found


@pytest.mark.parametrize(("prob", "count", "size"), [(0.25, 1, 224), (1.0, 1, 32), (0.6, 3, 160)])
def test_boxes_are_distributed_as_timms(prob, count, size):
    assert differences(ours(prob, count, size), timms(prob, count, size)) == []


def test_what_is_drawn_wrongly_would_show():
    theirs = timms(0.6, 2, 224)
    assert "number" in differences(ours(0.65, 2, 224), theirs)
    assert "area" in differences(ours(0.6, 3, 224), theirs)
    assert "bottom" in differences(ours(0.6, 2, 240), theirs)
    right = ours(0.6, 2, 224)
    assert differences(right[..., [1, 0, 3, 2]], theirs) == []
    centred = right.copy()
    centred[..., 2:] -= centred[..., :2] // 2
    centred[..., :2] -= centred[..., :2] // 2
    assert "top" in differences(centred, theirs)


@given(st.integers(8, 320), st.integers(1, 8), st.floats(0.1, 1), st.integers(0, 999))
def test_boxes_lie_inside_the_image_or_are_all_zero(size, count, prob, view):
    plan = plan_of(Policy(erase_prob=prob, erase_count=count, reference_size=size), 16, view=view)
    top, left, bottom, right = np.moveaxis(plan.erase, -1, 0)
    assert plan.erase.shape == (16, count, 4)
    there = (plan.erase != 0).any(axis=-1)
    assert ((top >= 0) & (left >= 0) & (bottom <= size) & (right <= size)).all()
    # timm takes no box that is as high or as wide as the image.
    assert ((bottom > top) & (bottom - top < size))[there].all()
    assert ((right > left) & (right - left < size))[there].all()


def test_a_box_as_high_as_a_small_image_is_tried_again():
    assert differences(ours(1.0, 1, 8), timms(1.0, 1, 8)) == []


def test_every_row_has_noise_of_its_own():
    policy = Policy(erase_prob=1.0, erase_mode="pixel")
    first, second = plan_of(policy, 500).noise, plan_of(policy, 500, view=1).noise
    assert len(np.unique(np.concatenate([first, second]))) == 1000
    for half in (first >> np.uint64(32), first & np.uint64(0xFFFFFFFF)):
        assert len(np.unique(half)) == 500


def test_nothing_is_planned_where_nothing_is_erased():
    plan = plan_of(Policy(erase_count=3), 4)
    assert plan.erase.shape == (4, 0, 4)
    assert (plan.noise == 0).all()
