"""Boxes are painted over as timm's RandomErasing does it, in 0..255."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.random_erasing import RandomErasing

from kdcache.random.philox import Stream
from kdcache.views.pixels.erase import erase
from kdcache.views.pixels.noise import normals, philox
from kdcache.views.policy import ERASE_MODES, Policy
from support.distributions import differ
from support.photographs import photographs

SIZE = 32


def policy_of(mode, reference_size=SIZE, **fields):
    return Policy(erase_mode=mode, erase_prob=1.0, reference_size=reference_size, **fields)


def boxes_of(rows, *boxes):
    return np.tile(np.array(boxes, np.int32).reshape(1, -1, 4), (rows, 1, 1))


def noise_of(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, rows, np.uint64)


def one_by_one(pixels, boxes, noise, policy):
    """What `erase` promises, pixel by pixel."""
    out = pixels.to(torch.float32)
    size = pixels.shape[-1]
    mean, deviation = np.array(policy.fill), np.array(policy.erase_std)
    for row, number in np.ndindex(boxes.shape[:2]):
        top, left, bottom, right = (int(np.floor(c * size / policy.reference_size + 0.5)) for c in boxes[row, number])
        for y in range(top, bottom):
            for x in range(left, right):
                colour = mean
                if policy.erase_mode != "const":
                    pixel = y * size + x if policy.erase_mode == "pixel" else 0
                    address = [int(noise[row]) & 0xFFFFFFFF, int(noise[row]) >> 32, pixel, number]
                    drawn = normals(philox(torch.tensor([address]), (0, Stream.NOISE)))[0, :3]
                    colour = mean + deviation * drawn.double().numpy()
                out[row, :, y, x] = torch.from_numpy(colour).to(torch.float32)
    return out


@settings(max_examples=10)
@given(
    mode=st.sampled_from(ERASE_MODES),
    size=st.sampled_from([6, 8, 11]),
    corners=st.lists(st.tuples(*[st.integers(0, 8)] * 4), min_size=3, max_size=6),
)
def test_boxes_are_painted_pixel_by_pixel(mode, size, corners):
    corners = corners[: len(corners) // 3 * 3]
    boxes = np.array([[min(a, b), min(c, d), max(a, b), max(c, d)] for a, b, c, d in corners], np.int32)
    boxes = boxes.reshape(3, -1, 4)
    pixels, policy = photographs(size, 3), policy_of(mode, 8)
    got = erase(pixels, boxes, noise_of(3), policy)
    assert torch.equal(got.to(torch.float32), one_by_one(pixels, boxes, noise_of(3), policy))


@pytest.mark.parametrize("mode", ERASE_MODES)
def test_the_result_is_float_only_where_something_is_erased(mode):
    pixels = photographs(SIZE)
    rows = len(pixels)
    policy = policy_of(mode)
    for nothing in (boxes_of(rows), boxes_of(rows, (0, 0, 0, 0)), boxes_of(rows, (3, 3, 3, 9))):
        assert erase(pixels, nothing, noise_of(rows), policy) is pixels
    before = pixels.clone()
    got = erase(pixels, boxes_of(rows, (3, 3, 5, 9)), noise_of(rows), policy)
    assert got.dtype == torch.float32
    assert torch.equal(pixels, before)


def test_pixels_may_lie_anyhow_in_memory():
    pixels = photographs(SIZE)
    boxes, noise = boxes_of(len(pixels), (1, 2, 20, 30)), noise_of(len(pixels))
    interleaved = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        erase(interleaved, boxes, noise, policy_of("rand")), erase(pixels, boxes, noise, policy_of("rand"))
    )


def test_a_later_box_covers_an_earlier_one():
    pixels = photographs(SIZE)
    rows, noise, policy = len(pixels), noise_of(len(pixels)), policy_of("rand")
    both = erase(pixels, boxes_of(rows, (0, 0, 20, 20), (10, 10, 30, 30)), noise, policy)
    second = erase(pixels, boxes_of(rows, (0, 0, 0, 0), (10, 10, 30, 30)), noise, policy)
    assert torch.equal(both[:, :, 10:30, 10:30], second[:, :, 10:30, 10:30])
    assert not torch.equal(both[:, :, 0, 0], both[:, :, 15, 15])


@pytest.mark.parametrize("mode", ERASE_MODES)
def test_a_rows_colours_do_not_depend_on_its_batch(mode):
    pixels = photographs(SIZE)
    boxes = np.random.default_rng(3).integers(0, SIZE // 2, (len(pixels), 3, 4)).astype(np.int32)
    boxes[:, :, 2:] += boxes[:, :, :2]
    noise, policy = noise_of(len(pixels)), policy_of(mode)
    whole = erase(pixels, boxes, noise, policy)
    for row in range(len(pixels)):
        alone = erase(pixels[row : row + 1], boxes[row : row + 1], noise[row : row + 1], policy)
        assert torch.equal(alone[0].to(torch.float32), whole[row])


def test_rows_boxes_pixels_and_channels_have_noise_of_their_own():
    pixels = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
    boxes = boxes_of(2, (0, 0, SIZE, 16), (0, 16, SIZE, SIZE))
    flat = policy_of("pixel", fill=(0.0, 0.0, 0.0), erase_std=(1.0, 1.0, 1.0))
    drawn = erase(pixels, boxes, noise_of(2), flat)
    assert len(drawn.unique()) > 0.99 * drawn.numel()
    one_colour = erase(pixels, boxes, noise_of(2), policy_of("rand"))
    assert len(one_colour.unique()) == 2 * 2 * 3


@pytest.mark.parametrize("mode", ERASE_MODES)
def test_colours_are_distributed_as_timms(mode):
    """timm erases normalised pixels; ours, normalised, must look the same."""
    mean, deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    torch.manual_seed(0)
    random.seed(0)
    theirs = RandomErasing(probability=1.0, mode=mode, device="cpu")(torch.full((400, 3, 16, 16), 9.0))
    rows = len(theirs)
    pixels = torch.zeros(rows, 3, 16, 16, dtype=torch.uint8)
    policy = policy_of(mode, 16, fill=mean, erase_std=deviation)
    painted = erase(pixels, boxes_of(rows, (2, 2, 8, 8)), noise_of(rows), policy)
    ours = (painted - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]

    def colours(values, erased):
        """Every erased value; once a box and channel where they are all alike."""
        if mode == "pixel":
            return values[erased].numpy()
        place = erased.flatten(2).to(torch.uint8).argmax(2, keepdim=True)
        return values.flatten(2).gather(2, place).flatten().numpy()

    ours, theirs = colours(ours, painted != 0), colours(theirs, theirs != 9.0)
    if mode == "const":
        assert np.abs(ours).max() < 1e-6
        assert not theirs.any()
        return
    assert not differ(ours, theirs)
    assert differ(ours + 0.4, theirs)
