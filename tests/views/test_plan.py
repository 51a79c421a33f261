"""A plan is a pure function of policy, seed, view and key, and its distributions are timm's."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from timm.data.mixup import Mixup
from timm.data.transforms import RandomResizedCropAndInterpolation

from kdcache.views.plan import Plan, make_plan
from kdcache.views.policy import Policy

GOLDEN = Path(__file__).parent.parent / "golden" / "plans.json"


def plan_of(policy, count, seed=0, view=0, height=375, width=500, first=0):
    keys = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    sizes = np.full(count, height, np.int64), np.full(count, width, np.int64)
    return make_plan(policy, seed, view, keys, *sizes)


def fields(plan):
    return {field.name: getattr(plan, field.name) for field in dataclasses.fields(Plan)}


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


@given(st.integers(0, 40), st.integers(1, 30), st.integers(0, 1000))
def test_a_plan_does_not_depend_on_batching(start, pairs, view):
    policy = Policy(mixup=0.2, cutmix=1.0)
    whole = fields(plan_of(policy, 2 * (start + pairs), view=view))
    part = fields(plan_of(policy, 2 * pairs, view=view, first=2 * start))
    for name, array in part.items():
        rows = slice(start, None) if name in ("weight", "cut") else slice(2 * start, None)
        assert np.array_equal(array, whole[name][rows]), name


def test_an_odd_last_row_is_not_mixed_and_changes_nothing_else():
    policy = Policy(mixup=0.2, cutmix=1.0)
    odd, even = plan_of(policy, 7), plan_of(policy, 8)
    assert len(odd.weight) == 3
    assert odd.row_weight()[6] == 1
    assert np.array_equal(odd.weight, even.weight[:3])
    assert np.array_equal(odd.box, even.box[:7])


alphas = st.just(0.0) | st.floats(1e-3, 2)


@given(alphas, alphas, st.integers(8, 320), st.integers(0, 99))
def test_cut_boxes_and_weights_agree(mixup, cutmix, size, view):
    assume(mixup > 0 or cutmix > 0)
    plan = plan_of(Policy(mixup=mixup, cutmix=cutmix, reference_size=size), 40, view=view)
    top, left, bottom, right = plan.cut.T.astype(np.int64)
    cuts = bottom > top
    assert (plan.weight >= 0).all()
    assert (plan.weight <= 1).all()
    assert ((top >= 0) & (left >= 0) & (bottom <= size) & (right <= size)).all()
    assert (plan.cut[~cuts] == 0).all()
    area = (bottom - top) * (right - left)
    assert np.allclose(plan.weight[cuts], 1 - area[cuts] / size**2, atol=1e-6)


def test_a_policy_that_mixes_nothing_leaves_every_weight_at_one():
    for policy in (Policy(), Policy(mixup=0.2, cutmix=1.0, mix_prob=0.0)):
        plan = plan_of(policy, 100)
        assert (plan.weight == 1).all()
        assert (plan.cut == 0).all()


def two_sample_gap(a, b):
    a, b = np.sort(a), np.sort(b)
    grid = np.concatenate([a, b])
    return np.abs(np.searchsorted(a, grid, "right") / len(a) - np.searchsorted(b, grid, "right") / len(b)).max()


def critical(n, m):
    """Two-sample Kolmogorov-Smirnov, 0.01 % level."""
    return 2.226 * np.sqrt((n + m) / (n * m))


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
        assert two_sample_gap(ours[:, column], theirs[:, column]) < critical(draws, draws), name
    area = [(boxes[:, 2].astype(float) * boxes[:, 3]) for boxes in (ours, theirs, wrong)]
    assert two_sample_gap(area[0], area[1]) < critical(draws, draws)
    if (height, width) == (375, 500):
        assert two_sample_gap(area[2], area[1]) > critical(draws, draws), "a wrong scale range must show"


@pytest.mark.parametrize(
    "settings",
    [
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"mixup": 0.1, "cutmix": 1.0},
        {"mixup": 0.8, "cutmix": 1.0, "mix_prob": 0.5, "switch_prob": 0.3},
        {"cutmix_minmax": (0.2, 0.8)},
    ],
)
def test_mixing_is_distributed_as_timms(settings):
    np.random.seed(0)
    policy = Policy(**settings, reference_size=64)
    timm_mixup = Mixup(
        mixup_alpha=policy.mixup,
        cutmix_alpha=policy.cutmix,
        cutmix_minmax=policy.cutmix_minmax,
        prob=policy.mix_prob,
        switch_prob=policy.switch_prob,
        mode="pair",
        num_classes=2,
        label_smoothing=0,
    )
    pairs = 20_000
    theirs_weight, theirs_cut = timm_pairs(timm_mixup, pairs, 64)
    plan = plan_of(policy, 2 * pairs)
    assert two_sample_gap(plan.weight, theirs_weight) < critical(pairs, pairs)
    cuts = plan.cut[:, 2] > plan.cut[:, 0]
    assert abs(cuts.mean() - (theirs_cut[:, 2] > theirs_cut[:, 0]).mean()) < 4 * np.sqrt(0.5 / pairs)
    for column in range(4):
        assert two_sample_gap(plan.cut[:, column], theirs_cut[:, column]) < critical(pairs, pairs)


def timm_pairs(mixup, pairs, size):
    """timm's own draws for many pairs: its parameters, then its boxes, as `_mix_pair` combines them."""
    from timm.data.mixup import cutmix_bbox_and_lam

    weight, use_cutmix = mixup._params_per_elem(pairs)
    cut = np.zeros((pairs, 4), int)
    for i in np.flatnonzero((weight != 1) & use_cutmix):
        (top, bottom, left, right), weight[i] = cutmix_bbox_and_lam(
            (3, size, size), weight[i], ratio_minmax=mixup.cutmix_minmax, correct_lam=True
        )
        if bottom > top and right > left:
            cut[i] = top, left, bottom, right
    return weight, cut


def golden_plans():
    cases = {
        "crop": (Policy(), 0, 0),
        "crop-mix": (Policy(mixup=0.1, cutmix=1.0), 0, 0),
        "later view and seed": (Policy(mixup=0.8, cutmix=1.0, mix_prob=0.7, switch_prob=0.3), 12345, 299),
        "minmax at 32": (Policy(cutmix_minmax=(0.2, 0.8), reference_size=32, crop_scale=(0.5, 1.0)), 1, 7),
    }
    out = {}
    for name, (policy, seed, view) in cases.items():
        keys = np.array([0, 1, 2**63, 2**64 - 1, 0xDEADBEEF, 42, 7], np.uint64)
        height = np.array([375, 500, 28, 1, 4000, 333, 640], np.int64)
        width = np.array([500, 375, 28, 900, 3000, 500, 480], np.int64)
        plan = make_plan(policy, seed, view, keys, height, width)
        out[name] = {key: array.tolist() for key, array in fields(plan).items()}
    return out


def test_golden_plans():
    """The committed plans may change only with a format version: caches in use were made with them.

    To write them anew: python tests/views/test_plan.py
    """
    assert golden_plans() == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_plans(), indent=1) + "\n")
