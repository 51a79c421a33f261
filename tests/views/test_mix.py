"""Mixing obeys the plan, pair by pair, and is timm's."""

import numpy as np
import pytest
import torch

from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import _mix_batch, _mix_by_pair, mix
from kdcache.views.plan import make_plan
from kdcache.views.policies import NAMED


def pixels_of(rows, size=8, seed=0):
    return torch.randint(
        0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_mixup_blends_neighbours_and_leaves_the_odd_row():
    pixels = pixels_of(5)
    weight = np.array([0.25, 1.0], np.float32)
    got = mix(pixels, weight, np.zeros((2, 4), np.int32), 8)
    x = pixels.to(torch.float32)
    assert torch.equal(got[0], x[0] * 0.25 + x[1] * 0.75)
    assert torch.equal(got[1], x[1] * 0.25 + x[0] * 0.75)
    assert torch.equal(got[2:], x[2:])


def test_cutmix_swaps_one_box():
    pixels = pixels_of(4)
    cut = np.array([[0, 0, 0, 0], [2, 3, 5, 8]], np.int32)
    got = mix(pixels, np.array([1.0, 1 - 15 / 64], np.float32), cut, 8)
    expected = pixels.to(torch.float32)
    expected[2, :, 2:5, 3:8], expected[3, :, 2:5, 3:8] = (
        expected[3, :, 2:5, 3:8].clone(),
        expected[2, :, 2:5, 3:8].clone(),
    )
    assert torch.equal(got, expected)


def test_the_cut_box_scales_with_the_rendered_size():
    pixels = torch.stack([torch.zeros(3, 12, 12), torch.full((3, 12, 12), 200)]).to(torch.uint8)
    cut = np.array([[0, 4, 4, 8]], np.int32)
    got = mix(pixels, np.array([1 - 16 / 64], np.float32), cut, 8)
    assert (got[0, :, 0:6, 6:12] == 200).all()
    assert got[0].sum() == 3 * 36 * 200


def test_a_pairs_pixels_do_not_depend_on_the_batch():
    pixels = pixels_of(64, size=9)
    rng = np.random.default_rng(0)
    weight = rng.random(32, dtype=np.float32)
    cut = np.zeros((32, 4), np.int32)
    cut[::3] = [1, 2, 6, 9]
    whole = mix(pixels, weight, cut, 9)
    for pair in range(32):
        alone = mix(pixels[2 * pair : 2 * pair + 2], weight[pair : pair + 1], cut[pair : pair + 1], 9)
        assert torch.equal(alone, whole[2 * pair : 2 * pair + 2])


def test_pixels_that_a_plan_erased_are_mixed_as_they_are():
    """They are float32 and may leave 0..255; the input stays whatever its type."""
    weight = np.array([0.25, 0.75], np.float32)
    cut = np.array([[0, 0, 0, 0], [2, 3, 5, 8]], np.int32)
    for pixels in (pixels_of(4), pixels_of(4).to(torch.float32) * 1.5 - 60.25):
        before = pixels.clone()
        got = mix(pixels, weight, cut, 8)
        x = pixels.to(torch.float32)
        assert torch.equal(got[0], x[0] * 0.25 + x[1] * 0.75)
        assert torch.equal(got[2, :, 2:5, 3:8], x[3, :, 2:5, 3:8])
        assert torch.equal(pixels, before)


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_is_mixed_as_timm_mixes_it(seed):
    from timm.data.mixup import Mixup

    pixels = pixels_of(2, size=16, seed=seed)
    np.random.seed(seed)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="pair", num_classes=4, label_smoothing=0)
    weight, use_cutmix = mixup._params_per_elem(1)
    cut = np.zeros((1, 4), np.int32)
    state = np.random.get_state()
    if use_cutmix[0]:
        from timm.data.mixup import cutmix_bbox_and_lam

        (top, bottom, left, right), lam = cutmix_bbox_and_lam((3, 16, 16), weight[0])
        weight[0], cut[0] = lam, (top, left, bottom, right)
    np.random.set_state(state)
    mixup._params_per_elem = lambda count, drawn=mixup._params_per_elem: (
        np.array([weight[0] if not use_cutmix[0] else 0.5], np.float32),
        use_cutmix,
    )
    got = mix(pixels, weight.astype(np.float32), cut, 16)
    x = pixels.to(torch.float32)
    if use_cutmix[0]:
        top, left, bottom, right = cut[0]
        expected = x.clone()
        expected[0, :, top:bottom, left:right] = x[1, :, top:bottom, left:right]
        expected[1, :, top:bottom, left:right] = x[0, :, top:bottom, left:right]
        assert torch.equal(got, expected)
    else:
        theirs = x.clone()
        mixup._mix_pair(theirs)
        assert torch.allclose(got, theirs, atol=1e-4)


def test_a_box_that_vanishes_at_a_small_size_swaps_nothing():
    pixels = pixels_of(2)
    cut = np.array([[100, 100, 101, 101]], np.int32)
    got = mix(pixels, np.array([1 - 1 / 224**2], np.float32), cut, 224)
    assert torch.equal(got, pixels.to(torch.float32))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_no_policy_makes_the_host_wait_for_the_device(name):
    """The device `meta` has shapes and no values: whatever asks for one, as the host does that waits, fails there."""
    policy, rows, sides = NAMED[name], 64, np.full(64, 400)
    plan = make_plan(policy, 0, 0, np.random.default_rng(2).integers(0, 1 << 63, rows).astype(np.uint64), sides, sides)
    pixels = torch.empty(rows, 3, 32, 32, dtype=torch.uint8, device="meta")
    with Augmenter(policy, threads=1) as augmenter:
        mixed = mix(augmenter.apply(pixels, plan), plan.weight, plan.cut, policy.reference_size)
    assert (mixed.device.type, mixed.dtype, mixed.shape) == ("meta", torch.float32, pixels.shape)


@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("erased", [False, True])
def test_pairs_one_by_one_and_in_a_batch_give_the_same_bits(rows, erased):
    pixels = pixels_of(rows, size=11)
    if erased:
        pixels = pixels.to(torch.float32) * 1.3 - 20
    rng = np.random.default_rng(1)
    pairs = rows // 2
    weight = rng.random(pairs, dtype=np.float32)
    weight[::5] = 1
    box = np.sort(rng.integers(0, 12, (pairs, 2, 2)), axis=1).reshape(-1, 4).astype(np.int32)
    cuts = rng.random(pairs) < 0.5
    before = pixels.clone()
    one, other = torch.empty_like(pixels, dtype=torch.float32), _mix_batch(pixels, weight, cuts, box)
    _mix_by_pair(pixels, weight, cuts, box, one)
    assert torch.equal(one, other)
    assert torch.equal(pixels, before)
