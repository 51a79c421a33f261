"""The batched kernels make Pillow's pixels, value by value."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kdcache.views.operations import WARPS, Operation
from kdcache.views.pixels.kernels import batched
from support.kernel_checks import CHECKS, CUBIC_OR_NOT, check_operation
from support.photographs import (
    FILL,
    batch_as_timm_does,
    photographs,
    plan_of_operations,
    random_plan,
)

CPU = torch.device("cpu")
POINTWISE = (*batched.TABLED, Operation.COLOR, Operation.HUE)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_checks_for_a_device_pass_on_the_cpu(check):
    check(CPU)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_tiny_images_too(size):
    for op, cubic in CUBIC_OR_NOT:
        check_operation(CPU, op, cubic, size, 3)
    for op in WARPS:
        check_operation(CPU, op, False, size, 3, nearest=True)


@settings(max_examples=60)
@given(
    pixels=arrays.arrays(np.uint8, (2, 3, 4, 4)),
    op=st.sampled_from(POINTWISE),
    argument=st.floats(0, 1, width=32),
)
def test_operations_on_values_agree_on_any_image(pixels, op, argument):
    low, high = min(op.spec.samples), max(op.spec.samples)
    plan = plan_of_operations(2, op, np.float32(low + argument * (high - low)))
    batch = torch.from_numpy(pixels)
    assert torch.equal(batched.operate(batch, plan, FILL), batch_as_timm_does(batch, plan))


@settings(max_examples=60)
@given(op=st.sampled_from(WARPS), argument=st.floats(-180, 180, width=32), cubic=st.booleans(), nearest=st.booleans())
def test_any_warp_is_timms(op, argument, cubic, nearest):
    argument = argument if op == Operation.ROTATE else argument / 180
    plan = plan_of_operations(1, op, np.float32(argument), cubic)
    batch = photographs(31, 1)
    assert torch.equal(batched.operate(batch, plan, FILL, nearest), batch_as_timm_does(batch, plan, nearest))


def test_every_colour_turns_its_hue_as_pillow_does():
    """Each of 16.7 million colours would take long: every fifth level of each channel, and the ends."""
    levels = torch.tensor([*range(0, 256, 5), 1, 254], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels)
    side = int(len(colours) ** 0.5)
    pixels = colours[: side * side].T.reshape(1, 3, side, side).contiguous()
    plan = plan_of_operations(1, Operation.HUE, 0.3)
    assert torch.equal(batched.operate(pixels, plan, FILL), batch_as_timm_does(pixels, plan))


@pytest.mark.parametrize("values", [[0], [255], [7], [3, 4], [0, 255], [0, 1, 2, 250]])
def test_images_of_few_values_are_stretched_and_flattened_as_pillow_does(values):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.tensor(values, dtype=torch.uint8)[torch.randint(len(values), (2, 3, 40, 40), generator=generator)]
    for op in (Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.CONTRAST):
        plan = plan_of_operations(2, op, 1.7)
        assert torch.equal(batched.operate(pixels, plan, FILL), batch_as_timm_does(pixels, plan))


def test_an_image_does_not_depend_on_its_batch(monkeypatch):
    pixels = photographs(32).repeat(8, 1, 1, 1)
    plan = random_plan(len(pixels), 3, seed=5)
    whole = batched.operate(pixels, plan, FILL)
    monkeypatch.setattr(batched, "_VALUES_PER_CALL", 3 * 32 * 32 * 2)
    assert torch.equal(batched.operate(pixels, plan, FILL), whole)


def test_what_is_given_stays_and_may_lie_anyhow_in_memory():
    pixels = photographs(32)
    interleaved = pixels.contiguous(memory_format=torch.channels_last)
    plan = random_plan(len(pixels), 3, seed=6)
    got = batched.operate(interleaved, plan, FILL)
    assert torch.equal(interleaved, pixels)
    assert torch.equal(got, batched.operate(pixels, plan, FILL))
