"""A plan's shift, operations and erasing are obeyed, in this order, whichever kernels do it."""

import threading

import numpy as np
import pytest
import torch

from kdcache.views.operations import Operation
from kdcache.views.pixels.augment import Augmenter, shift
from kdcache.views.pixels.erase import erase
from kdcache.views.pixels.kernels import batched
from kdcache.views.policy import Policy
from support.photographs import (
    FILL,
    batch_as_timm_does,
    photographs,
    plan_of_operations,
    plan_with,
    random_plan,
)

SIZE = 48


@pytest.fixture
def augmenter():
    with Augmenter(Policy(reference_size=SIZE), threads=2) as made:
        yield made


def test_a_plan_with_nothing_to_do_gives_the_same_tensor(augmenter):
    pixels = photographs(SIZE)
    rows = len(pixels)
    assert augmenter.apply(pixels, plan_with(rows)) is pixels
    idle = plan_with(
        rows,
        op=np.zeros((rows, 2), np.uint8),
        magnitude=np.ones((rows, 2), np.float32),
        erase=np.zeros((rows, 3, 4), np.int32),
    )
    assert augmenter.apply(pixels, idle) is pixels


@pytest.mark.parametrize("rows", [1, 2, 7, 63])
def test_threads_and_batched_kernels_make_timms_pixels(augmenter, rows):
    pixels = photographs(SIZE).repeat(9, 1, 1, 1)[:rows]
    before = pixels.clone()
    plan = random_plan(rows, 3, seed=rows)
    plan.op[::4] = Operation.IDENTITY
    wanted = batch_as_timm_does(pixels, plan)
    assert torch.equal(augmenter.apply(pixels, plan), wanted)
    assert torch.equal(batched.operate(pixels, plan, FILL), wanted)
    assert torch.equal(pixels, before)


def test_operations_come_in_the_plans_order(augmenter):
    pixels = photographs(SIZE, 2)
    op = np.array([[Operation.SOLARIZE, Operation.INVERT], [Operation.INVERT, Operation.SOLARIZE]], np.uint8)
    magnitude = np.where(op == Operation.SOLARIZE, 100, 0).astype(np.float32)
    got = augmenter.apply(pixels, plan_with(2, op=op, magnitude=magnitude))
    first = torch.where(pixels < 100, pixels, 255 - pixels)
    assert torch.equal(got[0], 255 - first[0])
    inverted = 255 - pixels[1]
    assert torch.equal(got[1], torch.where(inverted < 100, inverted, 255 - inverted))


def test_shift_comes_first_and_erasing_last(augmenter):
    pixels = photographs(SIZE, 1)
    plan = plan_with(
        1,
        shift=np.array([[0, 6]], np.int32),
        op=np.full((1, 1), Operation.INVERT, np.uint8),
        magnitude=np.zeros((1, 1), np.float32),
        erase=np.array([[[0, 0, 4, 4]]], np.int32),
    )
    got = augmenter.apply(pixels, plan)
    assert (got[0, :, 4:, :6] == 255).all()  # black came in, then was inverted
    assert torch.equal(got[0, :, 8:, 6:], 255.0 - pixels[0, :, 8:, :-6])
    assert (got[0, :, :4, :4] == torch.tensor(FILL)[:, None, None]).all()  # painted after the inversion


def test_a_shift_moves_down_and_right_and_lets_black_in():
    pixels = photographs(SIZE, 6) | 1  # so that only what came in is black
    offset = np.array([[0, 0], [5, 0], [0, 7], [-4, -9], [3, -2], [SIZE, 0]], np.int32)
    got = shift(pixels, offset, SIZE)
    for row, (down, right) in enumerate(offset.tolist()):
        wanted = torch.zeros_like(pixels[row])
        wanted[:, max(down, 0) : SIZE + min(down, 0), max(right, 0) : SIZE + min(right, 0)] = pixels[
            row, :, max(-down, 0) : SIZE - max(down, 0), max(-right, 0) : SIZE - max(right, 0)
        ]
        assert torch.equal(got[row], wanted)


def test_a_shift_scales_with_the_rendered_size():
    pixels = photographs(SIZE, 1) | 1
    got = shift(pixels, np.array([[4, -2]], np.int32), SIZE // 2)
    assert torch.equal(got, shift(pixels, np.array([[8, -4]], np.int32), SIZE))


def test_a_view_looks_the_same_at_another_size():
    """Geometry and colour are relative: the larger, scaled down, is the smaller, up to the resize's own blur."""
    rows = 7
    plan = plan_with(
        rows,
        shift=np.tile(np.array([[8, -12]], np.int32), (rows, 1)),
        op=np.tile(np.array([[Operation.ROTATE, Operation.TRANSLATE_X, Operation.COLOR]], np.uint8), (rows, 1)),
        magnitude=np.tile(np.array([[20.0, 0.2, 1.5]], np.float32), (rows, 1)),
        erase=np.tile(np.array([[[40, 60, 100, 120]]], np.int32), (rows, 1, 1)),
    )
    source = photographs(448)
    large, small = (
        torch.nn.functional.interpolate(source.float(), size=size, mode="bilinear", antialias=True)
        .round()
        .to(torch.uint8)
        for size in (224, 112)
    )
    with Augmenter(Policy(reference_size=224)) as augmenter:
        large, small = augmenter.apply(large, plan), augmenter.apply(small, plan)
    halved = torch.nn.functional.avg_pool2d(large, 2)
    assert (halved - small).abs().mean() < 2.5
    assert (halved.roll(3, -1) - small).abs().mean() > 5  # three pixels aside would be seen


def test_the_fill_is_the_policys():
    plan = plan_of_operations(1, Operation.TRANSLATE_X, 0.5)
    with Augmenter(Policy(fill=(1.4, 254.6, 77.0))) as augmenter:
        got = augmenter.apply(photographs(SIZE, 1), plan)
    assert got[0, :, 10, -1].tolist() == [1, 255, 77]


@pytest.mark.parametrize("nearest", [False, True])
def test_pixels_on_a_device_go_to_the_batched_kernels_with_plan_fill_and_filter(monkeypatch, nearest):
    """Pixels on the device `meta` have no values: nothing but the hand-over can be seen, and it is."""
    arrived = []

    def operate(*given):
        arrived.append(given)
        return given[0].clone()

    monkeypatch.setattr(batched, "operate", operate)
    pixels = torch.empty(7, 3, SIZE, SIZE, dtype=torch.uint8, device="meta")
    plan = plan_of_operations(7, Operation.TRANSLATE_X, 0.5)
    with Augmenter(Policy(fill=(1.4, 254.6, 77.0), warp_interpolation="nearest" * nearest)) as augmenter:
        got = augmenter.apply(pixels, plan)
        augmenter.apply(pixels, plan_with(7))
    ((handed, obeyed, fill, unfiltered),) = arrived
    assert unfiltered is nearest
    assert handed is pixels
    assert obeyed is plan
    assert fill == (1, 255, 77)
    assert got is not pixels


def test_interleaved_pixels_and_odd_sizes(augmenter):
    pixels = photographs(33)
    plan = random_plan(len(pixels), 2, seed=1)
    interleaved = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmenter.apply(interleaved, plan), augmenter.apply(pixels, plan))


def test_an_error_in_a_thread_reaches_the_caller(augmenter):
    plan = plan_of_operations(8, Operation.INVERT, 0.0)
    plan.op[5] = 200
    with pytest.raises(KeyError):
        augmenter.apply(photographs(SIZE, 1).repeat(8, 1, 1, 1), plan)


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    with Augmenter(Policy(), threads=3) as augmenter:
        augmenter.apply(photographs(SIZE), plan_of_operations(7, Operation.INVERT, 0.0))
        assert set(threading.enumerate()) - before
    augmenter.close()
    assert not set(threading.enumerate()) - before


def test_erasing_is_part_of_it(augmenter):
    pixels = photographs(SIZE)
    boxes = np.tile(np.array([[[3, 4, 20, 30]]], np.int32), (len(pixels), 1, 1))
    noise = np.arange(len(pixels), dtype=np.uint64)
    got = augmenter.apply(pixels, plan_with(len(pixels), erase=boxes, noise=noise))
    assert torch.equal(got, erase(pixels, boxes, noise, augmenter.policy))
