"""Policy `centre` shows what timm's evaluation transform shows, pixel by pixel, at any size, in both renderers."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms_factory import create_transform

from kdcache.errors import UsageError
from kdcache.render.encoded import decode_rgb
from kdcache.render.evaluation import resize_and_cut
from kdcache.render.opening import open_renderer
from kdcache.views.plan import describe_crop, make_plan
from kdcache.views.policies import NAMED
from support.images import encode, photograph

#: Wide, square, narrow with an odd side, and smaller than the view.
PHOTOGRAPHS = [
    encode(image, "JPEG")
    for image in (
        photograph("coffee"),
        photograph("astronaut"),
        photograph("rocket").crop((100, 0, 301, 427)),
        photograph("chelsea").resize((90, 61)),
    )
]
PNG = encode(photograph("coffee"), "PNG")


def as_timm_does(image, size, crop_pct, interpolation):
    transform = create_transform(
        (3, size, size), is_training=False, crop_pct=crop_pct, interpolation=interpolation, use_prefetcher=True
    )
    return np.asarray(transform(image))


def rendered(renderer, encoded, crop_pct, interpolation):
    policy = dataclasses.replace(NAMED["centre"], crop_pct=crop_pct, interpolation=interpolation)
    width, height = np.array([decode_rgb(data).size for data in encoded], np.int64).T
    plan = make_plan(policy, 0, 0, np.arange(len(encoded), dtype=np.uint64), height, width)
    pixels = renderer.render(encoded, plan.box, cubic=plan.cubic, flips=plan.flip, crop_pct=plan.crop_pct)
    return pixels.numpy(), plan


@pytest.mark.parametrize("name", ["pillow", "dali"])
@pytest.mark.parametrize("size", [64, 224])
def test_the_pixels_are_those_of_timms_evaluation(name, size):
    encoded = [*PHOTOGRAPHS, PNG]
    with open_renderer(name, size=size, max_batch=len(encoded), threads=2) as renderer:
        for crop_pct, interpolation in [(0.875, "bicubic"), (0.95, "bilinear"), (1.0, "bicubic"), (0.9, "bilinear")]:
            pixels, _ = rendered(renderer, encoded, crop_pct, interpolation)
            for shown, data in zip(pixels, encoded, strict=True):
                assert np.array_equal(shown, as_timm_does(decode_rgb(data), size, crop_pct, interpolation))


@settings(deadline=None)
@given(
    sides=st.tuples(st.integers(5, 80), st.integers(5, 80)),
    size=st.integers(1, 64),
    crop_pct=st.floats(0.2, 1) | st.sampled_from([0.875, 0.9, 0.95, 1.0, 224 / 256, 288 / 320, 1 / 3]),
    cubic=st.booleans(),
)
def test_sides_and_places_are_rounded_as_timm_rounds_them(sides, size, crop_pct, cubic):
    noise = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    shown = np.asarray(resize_and_cut(image, size, crop_pct, cubic)).transpose(2, 0, 1)
    assert np.array_equal(shown, as_timm_does(image, size, crop_pct, "bicubic" if cubic else "bilinear"))


@pytest.mark.parametrize("name", ["pillow", "dali"])
def test_a_very_long_image_takes_no_more_memory_and_shows_its_centre(name, monkeypatch):
    """timm would resize one row of 6,000 columns to 256 times 1,536,000 pixels."""
    row = np.random.default_rng(0).integers(0, 256, (1, 6000, 3), dtype=np.uint8)
    row = np.repeat(row, 2, axis=0)
    encoded = encode(Image.fromarray(row), "PNG")
    sizes = []
    resize = Image.Image.resize

    def noted(image, size, *arguments, **named):
        sizes.append(size)
        return resize(image, size, *arguments, **named)

    monkeypatch.setattr(Image.Image, "resize", noted)
    with open_renderer(name, size=32, max_batch=1, threads=1) as renderer:
        pixels, plan = rendered(renderer, [encoded], 1.0, "bilinear")
    assert sizes == [(32, 32)]
    assert pixels[0].std() > 0
    assert describe_crop(plan, 0) == "crop about 2 x 2 at row 0, column 2999"
    # The two columns in the middle, next to each other and the same in both rows.
    assert np.array_equal(pixels[0][:, :, 0], np.broadcast_to(pixels[0][:, :1, 0], (3, 32)))


def test_a_share_of_the_side_is_over_0_to_1():
    with (
        open_renderer("pillow", size=32, max_batch=1, threads=1) as renderer,
        pytest.raises(UsageError, match="crop_pct is a share"),
    ):
        renderer.render(
            [PNG], np.array([[0, 0, 9, 9]], np.int32), cubic=np.array([True]), flips=np.array([False]), crop_pct=1.5
        )


def test_the_box_that_a_preview_draws_is_the_centred_square():
    with open_renderer("pillow", size=32, max_batch=2, threads=1) as renderer:
        _, plan = rendered(renderer, PHOTOGRAPHS[:2], 0.875, "bicubic")
    assert plan.box.tolist() == [[0, 0, 400, 600], [0, 0, 512, 512]]
    assert plan.shown_box().tolist() == [[25, 125, 350, 350], [32, 32, 448, 448]]
