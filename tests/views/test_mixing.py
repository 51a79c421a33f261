"""Weights and cut boxes of pairs are drawn as timm's Mixup draws them in `pair` mode."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from timm.data.mixup import Mixup, cutmix_bbox_and_lam, mixup_target

from kdcache.objectives.labels import soft_labels
from kdcache.views.policy import Policy
from support.distributions import counts_differ, differ
from support.plans import fields, plan_of

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


def test_views_from_a_number_on_are_unmixed_and_nothing_else_of_any_view_changes():
    mixing = {"mixup": 0.8, "cutmix": 1.0, "auto_augment": "rand-m7-mstd0.5", "erase_prob": 0.5}
    to_the_end, ending = Policy(**mixing), Policy(**mixing, mixup_off_view=5)
    for view in (0, 4, 5, 6, np.arange(200) // 2 % 9):
        ours, theirs = (fields(plan_of(policy, 200, view=view)) for policy in (ending, to_the_end))
        mixed = np.broadcast_to(view, 200)[::2] < 5
        assert (ours["weight"] == np.where(mixed, theirs["weight"], 1)).all()
        assert (ours["cut"] == np.where(mixed[:, None], theirs["cut"], 0)).all()
        assert (theirs["weight"] < 1).all()
        for name in ours.keys() - {"weight", "cut"}:
            assert (ours[name] == theirs[name]).all(), name
    assert ending.to_json() == to_the_end.to_json() | {"mixup_off_view": 5}


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
    assert not differ(plan.weight, theirs_weight)
    cuts = plan.cut[:, 2] > plan.cut[:, 0]
    assert not counts_differ(cuts, theirs_cut[:, 2] > theirs_cut[:, 0])
    for column in range(4):
        assert not differ(plan.cut[:, column], theirs_cut[:, column])


def test_a_wrong_alpha_or_probability_would_show():
    np.random.seed(0)
    pairs = 20_000
    timm_mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="pair", num_classes=2, label_smoothing=0)
    weight, cut = timm_pairs(timm_mixup, pairs, 64)
    right = {"mixup": 0.8, "cutmix": 1.0, "reference_size": 64}
    assert not differ(plan_of(Policy(**right), 2 * pairs).weight, weight)
    for wrong in ({"mixup": 0.6}, {"cutmix": 0.5}, {"mix_prob": 0.95}):
        assert differ(plan_of(Policy(**{**right, **wrong}), 2 * pairs).weight, weight), wrong
    swapped = plan_of(Policy(**right, switch_prob=0.53), 2 * pairs).cut
    assert counts_differ(swapped[:, 2] > swapped[:, 0], cut[:, 2] > cut[:, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_are_mixed_by_the_boxs_area_at_the_reference_size_and_smoothed_once(smoothing):
    classes, size = 10, 224
    plan = plan_of(Policy(cutmix=1.0, reference_size=size), 64)
    own = torch.arange(64) * 7 % classes
    mixed = torch.from_numpy(plan.row_weight() < 1)
    partner = torch.where(mixed, own.view(-1, 2).flip(1).flatten(), -1)
    ours = soft_labels(torch.stack([own, partner], dim=1), torch.from_numpy(plan.row_weight()), classes, smoothing)

    top, left, bottom, right = torch.from_numpy(plan.cut).double().T
    kept = 1 - (bottom - top) * (right - left) / size**2
    # timm's pairs are first and last, second and last but one, ...
    as_timm = torch.cat([torch.arange(0, 64, 2), torch.arange(1, 64, 2).flip(0)])
    theirs = mixup_target(own[as_timm], classes, torch.cat([kept, kept.flip(0)])[:, None], smoothing)
    torch.testing.assert_close(ours[as_timm].double(), theirs, rtol=1e-5, atol=1e-6)
    assert mixed.float().mean() > 0.9


def timm_pairs(mixup, pairs, size):
    """timm's own draws for many pairs: its parameters, then its boxes, as `_mix_pair` combines them."""
    weight, use_cutmix = mixup._params_per_elem(pairs)
    cut = np.zeros((pairs, 4), int)
    for i in np.flatnonzero((weight != 1) & use_cutmix):
        (top, bottom, left, right), weight[i] = cutmix_bbox_and_lam(
            (3, size, size), weight[i], ratio_minmax=mixup.cutmix_minmax, correct_lam=True
        )
        if bottom > top and right > left:
            cut[i] = top, left, bottom, right
    return weight, cut
