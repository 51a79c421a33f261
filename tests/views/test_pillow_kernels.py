"""On the CPU an operation is what timm's own function makes of the image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcache.views.operations import WARPS, Operation
from kdcache.views.pixels.kernels import pillow
from support.photographs import FILL, as_timm_does, photographs, to_image, to_tensor


@pytest.mark.parametrize("op", Operation, ids=lambda op: op.name)
def test_an_operation_is_timms(op):
    image = to_image(photographs(96)[1])
    before = to_tensor(image)
    for argument in op.spec.samples:
        for cubic in (False, True):
            got = pillow.operate(image, op, float(argument), cubic, FILL)
            assert torch.equal(to_tensor(got), to_tensor(as_timm_does(image, op, argument, cubic)))
    assert torch.equal(to_tensor(image), before)


@pytest.mark.parametrize("op", WARPS, ids=lambda op: op.name)
def test_interpolation_and_fill_are_heeded(op):
    image = to_image(photographs(96)[0])
    argument = 17.0 if op == Operation.ROTATE else 0.23
    linear, cubic = (pillow.operate(image, op, argument, cubic, FILL) for cubic in (False, True))
    assert not torch.equal(to_tensor(linear), to_tensor(cubic))
    assert (np.asarray(linear) == FILL).all(-1).any()


SLIDES = [op for op in WARPS if op != Operation.ROTATE]


@settings(max_examples=150, deadline=None)
@given(
    op=st.sampled_from(SLIDES),
    argument=st.one_of(
        st.floats(-1.5, 1.5, width=32),
        st.floats(-(2.0**-20), 2.0**-20, width=32),  # too fine for whole rows at a time
        st.integers(-64, 64).map(lambda numerator: numerator / 62),  # moves by halves and by whole pixels
        st.sampled_from([0.0, 1e6, -1e6]),
    ),
    cubic=st.booleans(),
    nearest=st.booleans(),
    noise=st.booleans(),
)
def test_any_shear_and_translation_is_timms(op, argument, cubic, nearest, noise):
    image = to_image(photographs(31)[2])
    if noise:  # whose interpolation goes beyond 0..255
        image = Image.fromarray(np.random.default_rng(0).choice(np.array([0, 1, 254, 255], np.uint8), (31, 31, 3)))
    got = pillow.operate(image, op, argument, cubic, FILL, nearest)
    assert np.array_equal(np.asarray(got), np.asarray(as_timm_does(image, op, argument, cubic, nearest)))


@pytest.mark.parametrize("op", SLIDES, ids=lambda op: op.name)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 3), (40, 17), (17, 130)])
def test_shears_and_translations_of_any_size_are_timms(op, size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8))
    for argument in op.spec.samples:
        for cubic in (False, True):
            got = pillow.operate(image, op, argument, cubic, FILL)
            assert np.array_equal(np.asarray(got), np.asarray(as_timm_does(image, op, argument, cubic)))


def test_zero_bits_are_black():
    got = pillow.operate(to_image(photographs(96)[0]), Operation.POSTERIZE, 0.0, False, FILL)
    assert not np.asarray(got).any()


@pytest.mark.parametrize(("op", "argument"), [(Operation.ROTATE, 30.0), (Operation.TRANSLATE_X, 0.25)])
def test_positive_arguments_go_where_the_description_says(op, argument):
    """Counter-clockwise; to the left."""
    pixels = torch.zeros(3, 64, 64, dtype=torch.uint8)
    pixels[:, 30:34, 50:54] = 255
    row, column = to_tensor(pillow.operate(to_image(pixels), op, argument, False, (0, 0, 0)))[0].nonzero().T
    if op == Operation.ROTATE:
        assert row.float().mean() < 26
    else:
        assert column.float().mean() == pytest.approx(51.5 - 16)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 5, 5), (3, 96, 96)])
def test_planes_become_a_image_and_come_back(shape):
    planes = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = pillow.from_planes(planes)
    assert np.array_equal(np.asarray(image), planes.transpose(1, 2, 0))
    back = np.zeros_like(planes)
    pillow.into_planes(image, back)
    assert np.array_equal(back, planes)


def test_planes_may_lie_anyhow_in_memory():
    interleaved = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    image = pillow.from_planes(interleaved.transpose(2, 0, 1))
    assert np.array_equal(np.asarray(image), interleaved)
    back = np.zeros_like(interleaved)
    pillow.into_planes(image, back.transpose(2, 0, 1))
    assert np.array_equal(back, interleaved)
