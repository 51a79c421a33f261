"""A view shows the part of an image that timm's or torchvision's crop would."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import RandomCrop

from kdcache.views.policy import Policy
from support.distributions import counts_differ, differ
from support.plans import fields, plan_of


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_boxes_lie_inside_images(height, width, scale, ratio, seed):
    plan = plan_of(Policy(crop_scale=scale, crop_ratio=ratio), 16, seed=seed, height=height, width=width)
    top, left, box_height, box_width = plan.box.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (box_height >= 1).all()
    assert (box_width >= 1).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 160), (60, 400)])
def test_crops_are_distributed_as_timms(height, width):
    random.seed(0)
    image = Image.new("RGB", (width, height))
    draws = 30_000
    theirs = np.array(
        [RandomResizedCropAndInterpolation.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(draws)]
    )
    ours = plan_of(Policy(), draws, height=height, width=width).box
    wrong = plan_of(Policy(crop_scale=(0.1, 1.0)), draws, height=height, width=width).box
    for column, name in enumerate(("top", "left", "height", "width")):
        assert not differ(ours[:, column], theirs[:, column]), name
    area = [(boxes[:, 2].astype(float) * boxes[:, 3]) for boxes in (ours, theirs, wrong)]
    assert not differ(area[0], area[1])
    if (height, width) == (375, 500):
        assert differ(area[2], area[1]), "a wrong scale range must show"


def torchvision_shifts(pad, count):
    torch.manual_seed(0)
    padded = Image.new("RGB", (32 + 2 * pad, 32 + 2 * pad))
    return pad - np.array([RandomCrop.get_params(padded, (32, 32))[:2] for _ in range(count)])


@pytest.mark.parametrize("pad", [4, 7])
def test_padded_crops_are_shifted_as_torchvisions(pad):
    theirs = torchvision_shifts(pad, 10_000)
    ours = plan_of(Policy(crop="padded", pad=pad, reference_size=32), 30_000).shift
    wrong = plan_of(Policy(crop="padded", pad=pad - 1, reference_size=32), 30_000).shift
    place = 2 * pad + 1
    assert not counts_differ(ours[:, 0] * place + ours[:, 1], theirs[:, 0] * place + theirs[:, 1])
    for axis in (0, 1):
        assert not counts_differ(ours[:, axis], theirs[:, axis])
        assert counts_differ(wrong[:, axis], theirs[:, axis])


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.01, 1), st.sampled_from(["centre", "padded"]))
def test_centre_and_padded_crops_take_the_centred_square(height, width, crop_pct, crop):
    policy = Policy(crop=crop, pad=4 * (crop == "padded"), crop_pct=crop_pct)
    box = plan_of(policy, 2, height=height, width=width).box
    top, left, box_height, box_width = box[0].tolist()
    assert (box[0] == box[1]).all()
    assert box_height == box_width == max(1, round(crop_pct * min(height, width)))
    assert 0 <= height - box_height - 2 * top <= 1
    assert 0 <= width - box_width - 2 * left <= 1


def test_nothing_is_random_in_a_centre_view_without_flips():
    policy = Policy(crop="centre", hflip=0.0)
    first, second = (fields(plan_of(policy, 64, seed=seed, view=seed)) for seed in (0, 9))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not first["flip"].any()
    assert not first["shift"].any()


@pytest.mark.parametrize(("interpolation", "share"), [("bilinear", 0.0), ("bicubic", 1.0), ("random", 0.5)])
def test_the_filter_is_the_policys_or_one_of_two(interpolation, share):
    cubic = plan_of(Policy(interpolation=interpolation), 20_000).cubic
    assert abs(cubic.mean() - share) <= 4 * np.sqrt(share * (1 - share) / len(cubic))


@pytest.mark.parametrize("hflip", [0.0, 0.3, 1.0])
def test_flips_have_their_probability(hflip):
    flip = plan_of(Policy(hflip=hflip), 20_000).flip
    assert abs(flip.mean() - hflip) <= 4 * np.sqrt(hflip * (1 - hflip) / len(flip))
