"""A view is the same view at every size: one region, one set of operations, one mixing weight."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from torch.nn import functional as F

from kdcache.render.pillow import PillowRenderer
from kdcache.views.operations import Operation
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import mix
from kdcache.views.plan import make_plan
from kdcache.views.policy import Policy
from support.images import PHOTOGRAPHS, encode, photograph

ROWS = 64
# Mean difference in grey levels, once both sizes are averaged down to 40 pixels: what sharpness, blur and the rounding
# of boxes to whole pixels leave of nine views in ten. A wrong view is beyond it nine times in ten.
LIMIT = 1.6

CROP = Policy()
MIXUP = Policy(mixup=0.8)
CUTMIX = Policy(cutmix=1.0)
PADDED = Policy(crop="padded", pad=28)
STRONG = Policy(
    interpolation="random",
    auto_augment="rand-m9-mstd0.5-inc1-p1",
    erase_prob=0.5,
    erase_mode="rand",
    erase_count=2,
    mixup=0.8,
    cutmix=1.0,
)
THREE = Policy(auto_augment="3a", color_jitter=(0.3, 0.3, 0.3, 0.1))


@cache
def files():
    return [encode(photograph(PHOTOGRAPHS[row % len(PHOTOGRAPHS)]), "JPEG", quality=95) for row in range(ROWS)]


@cache
def plan_of(policy):
    keys = np.arange(ROWS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    size = np.array([photograph(PHOTOGRAPHS[row % len(PHOTOGRAPHS)]).size for row in range(ROWS)])
    return make_plan(policy, 0, 0, keys, size[:, 1], size[:, 0])


def rendered(policy, plan, size):
    """The views as a model sees them, averaged down to 40 x 40."""
    with PillowRenderer(size=size, max_batch=ROWS) as renderer, Augmenter(policy) as augmenter:
        pixels = renderer.render(files(), plan.box, cubic=plan.cubic, flips=plan.flip)
        pixels = augmenter.apply(pixels, plan)
        mixed = mix(pixels, plan.weight, plan.cut, policy.reference_size)
    return F.interpolate(mixed, (40, 40), mode="bilinear", antialias=True)


@cache
def large(policy):
    return rendered(policy, plan_of(policy), 224)


def apart(policy, plan):
    """Of each row, the mean difference between the view at 224 and `plan` at 160."""
    return (large(policy) - rendered(policy, plan, 160)).abs().mean(dim=(1, 2, 3)).numpy()


def limit(policy):
    """A shift rounds to whole pixels of either size, which shows along every edge of the image."""
    return 2 * LIMIT if policy == PADDED else LIMIT


@pytest.mark.parametrize(
    ("policy", "median"), [(CROP, 0.3), (MIXUP, 0.3), (CUTMIX, 0.5), (PADDED, 1.5), (STRONG, 0.7), (THREE, 0.5)]
)
def test_a_view_is_the_same_at_224_and_at_160(policy, median):
    gap = apart(policy, plan_of(policy))
    assert np.median(gap) < median
    assert np.quantile(gap, 0.9) < limit(policy)


def changed(name, change):
    def wrong(plan):
        return dataclasses.replace(plan, **{name: change(getattr(plan, name))})

    return wrong


def lower(box):
    """A sixteenth of the box is lost at its upper side."""
    rows = box[:, 2:3] // 16
    return (box + rows * np.array([1, 0, -1, 0])).astype(np.int32)


def one_code_further(op):
    return np.where(op == Operation.ROTATE, Operation.SHEAR_X, Operation.ROTATE).astype(np.uint8)


@pytest.mark.parametrize(
    ("policy", "wrong"),
    [
        (CROP, changed("box", lower)),
        (CROP, changed("flip", np.logical_not)),
        (MIXUP, changed("weight", lambda weight: 1 - weight)),
        (CUTMIX, changed("cut", lambda cut: np.roll(cut, 1, axis=0))),
        (PADDED, changed("shift", np.negative)),
        (STRONG, changed("op", np.zeros_like)),
        (STRONG, changed("op", one_code_further)),
        (STRONG, changed("box", lower)),
        (THREE, changed("op", np.zeros_like)),
    ],
)
def test_another_region_operation_or_weight_would_show(policy, wrong):
    right = plan_of(policy)
    assert np.quantile(apart(policy, wrong(right)), 0.1) > limit(policy)


def test_erased_boxes_cover_the_same_region_at_every_size():
    policy = dataclasses.replace(CROP, erase_prob=1.0, fill=(255.0, 0.0, 255.0))
    plan = plan_of(policy)
    assert np.quantile(apart(policy, plan), 0.9) < LIMIT
    assert np.median(apart(policy, changed("erase", lambda boxes: np.roll(boxes, 1, axis=0))(plan))) > 4 * LIMIT
