"""`cifar-autoaugment` is torchvision's AutoAugment(CIFAR10) as it is by default: the same value everywhere."""

import numpy as np
import pytest
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

from kdcache.views.operations import WARPS, Operation
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.kernels import batched
from kdcache.views.policies import NAMED
from kdcache.views.policy import Policy
from kdcache.views.schemes.levels import compute_arguments
from kdcache.views.schemes.parsing import parse_scheme
from support.photographs import photographs, plan_of_operations, to_image, to_tensor

CIFAR = NAMED["cifar-autoaugment"]
THEIRS = AutoAugment(AutoAugmentPolicy.CIFAR10)


def steps(size: int) -> list[tuple[str, float, int, np.float32]]:
    """Everything that the policy may do, with either sign: torchvision's name and magnitude, our operation and its."""
    scheme, space = parse_scheme("cifar10", size), THEIRS._augmentation_space(10, (size, size))
    assert scheme is not None
    found = {}
    for ours, theirs in zip(scheme.sequences, THEIRS.policies, strict=True):
        for position, (name, _, level) in zip(ours, theirs, strict=True):
            magnitudes, signed = space[name]
            magnitude = float(magnitudes[level]) if level is not None else 0.0
            for sign in (1, -1) if signed else (1,):
                # A positive translation of ours moves to the left, one of theirs to the right.
                minus = (sign < 0) != name.startswith("Translate")
                one, full = np.zeros((1, 1), np.int64), np.full((1, 1), 10.0)
                step = scheme.steps[position]
                argument = compute_arguments((step.levels,), one, full, np.full((1, 1), 0.9 * minus))
                found[name, level, sign] = (name, sign * magnitude, int(step.operation), argument[0, 0])
    return list(found.values())


def on_cpu(pixels: torch.Tensor, op: int, argument: np.float32) -> torch.Tensor:
    with Augmenter(CIFAR, 1) as augmenter:
        return augmenter.apply(pixels, plan_of_operations(len(pixels), Operation(op), argument))


def on_a_device(pixels: torch.Tensor, op: int, argument: np.float32) -> torch.Tensor:
    return batched.operate(pixels, plan_of_operations(len(pixels), Operation(op), argument), (0, 0, 0), nearest=True)


@pytest.mark.parametrize("size", [32, 33, 96])
@pytest.mark.parametrize("kernels", [on_cpu, on_a_device])
def test_every_step_makes_torchvisions_values_of_photographs(size, kernels):
    pixels = photographs(size)
    images = [to_image(planes) for planes in pixels]
    done = steps(size)
    assert {Operation(op) for _, _, op, _ in done} >= {*WARPS} - {Operation.SHEAR_X}
    for name, magnitude, op, argument in done:
        theirs = [_apply_op(image, name, magnitude, InterpolationMode.NEAREST, None) for image in images]
        wanted = torch.stack([to_tensor(image) for image in theirs])
        assert torch.equal(kernels(pixels, op, argument), wanted), (name, magnitude)


@pytest.mark.parametrize("last", [0.3, 0.9, 30.0])
def test_levels_are_torchs_own_numbers(last):
    from kdcache.views.schemes.auto_augment import _linspace

    assert [_linspace(last, level) for level in range(10)] == torch.linspace(0.0, last, 10).tolist()


def test_what_the_policy_asks_for_is_torchvisions_default():
    assert (THEIRS.interpolation, THEIRS.fill) == (InterpolationMode.NEAREST, None)
    assert (CIFAR.warp_interpolation, CIFAR.fill) == ("nearest", (0.0, 0.0, 0.0))


def test_warps_of_other_policies_interpolate_and_their_identity_has_no_word_of_it():
    plan = plan_of_operations(1, Operation.ROTATE, 20.0)
    pixels = photographs(32, 1)
    with Augmenter(Policy(auto_augment="cifar10")) as smooth, Augmenter(CIFAR) as nearest:
        assert not torch.equal(smooth.apply(pixels, plan), nearest.apply(pixels, plan))
    assert [name for name, policy in NAMED.items() if "warp_interpolation" in policy.to_json()] == ["cifar-autoaugment"]
