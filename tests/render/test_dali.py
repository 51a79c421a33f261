import platform
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from kdcache.errors import BrokenImageError
from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.encoded import UndecodableError, decode_rgb
from kdcache.render.opening import open_renderer
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import mix
from kdcache.views.plan import make_plan
from kdcache.views.policies import NAMED
from kdcache.views.policy import Policy
from support.image_files import FORMATS
from support.images import PHOTOGRAPHS, encode, photograph, png_that_dali_refuses
from support.renderer_contract import RendererContract, difference, request, tiny_requests

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="DALI exists for Linux on x86_64 alone"
)


class TestDaliRenderer(RendererContract):
    name = "dali"

    def test_an_image_that_dali_alone_refuses_is_named(self) -> None:
        """Compressed data without their own checksum: Pillow reads the rows and does not ask for it."""
        odd = png_that_dali_refuses(20, 20)
        requests = tiny_requests(4, 8)
        good = requests[2]
        requests[2] = request(
            [*good.encoded[:5], odd, *good.encoded[6:]], [*good.boxes[:5], (0, 0, 9, 9), *good.boxes[6:]]
        )
        with self.open() as renderer:
            delivered = []
            with pytest.raises(
                BrokenImageError,
                match=r"^batch-5 in .* DALI cannot decode its data \(.+\), though Pillow can\. "
                r"`kdcache index DATA --check` .* repair that sample, or use --renderer pillow\.$",
            ):
                delivered.extend(renderer.stream(requests))
            self.expect_pixels(delivered, requests[:2])
            self.expect_working(renderer)
        with open_renderer("pillow", size=8, max_batch=1) as pillow:
            (corner,) = pillow.stream([request([odd], [(0, 0, 8, 8)])])
        assert corner[0, :, 0, 0].tolist() == list(np.random.default_rng(2).bytes(3 * 20 * 20)[:3])

    def test_a_stray_marker_in_a_scan_ends_the_image_there_and_harms_no_other(self, renderer: Renderer) -> None:
        """Pillow refuses such a JPEG; DALI shows what came before, and grey, the same each time."""
        whole = FORMATS["jpeg"][0]
        stray = whole[: len(whole) // 2] + b"\xff\x39" + whole[len(whole) // 2 + 2 :]
        with pytest.raises(UndecodableError):
            decode_rgb(stray)
        boxes = [(0, 0, 512, 512)] * 3
        shown = [self.rendered(renderer, request([whole, stray, whole], boxes)) for _ in range(3)]
        assert torch.equal(shown[0], shown[1])
        assert torch.equal(shown[0], shown[2])
        assert torch.equal(shown[0][0], shown[0][2])
        assert torch.equal(shown[0][1, :, :14], shown[0][0, :, :14])
        assert shown[0][1, :, 20:].unique().tolist() == [128]
        self.expect_working(renderer)

    def test_a_device_that_has_no_room_for_the_pixels_is_no_fault_of_an_image(
        self, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(pixels: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory left")

        monkeypatch.setattr(renderer, "_to_device", full)
        with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
            list(renderer.stream(tiny_requests(4, 8)))
        monkeypatch.undo()
        self.expect_working(renderer)


class TestSeveralGraphsAtOnce:
    """A job may have two renderers: the teacher's and the student's size differ."""

    def test_they_do_not_disturb_each_other(self) -> None:
        requests = tiny_requests(12, 8)
        with (
            open_renderer("dali", size=32, max_batch=8) as large,
            open_renderer("dali", size=16, max_batch=8) as small,
        ):
            alone = [list(renderer.stream(requests)) for renderer in (large, small)]
            both = list(zip(large.stream(requests), small.stream(requests), strict=True))
        for number, pixels in enumerate(alone):
            assert all(torch.equal(pair[number], one) for pair, one in zip(both, pixels, strict=True))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photographs_differ_from_pillows_by_rounding_alone(interpolation: str) -> None:
    """Random resized crops of photographs to 224: the same geometry, and a mean difference below 0.05 levels."""
    photographs = [photograph(name) for name in PHOTOGRAPHS]
    drawn = random_crops(photographs, 8, np.random.default_rng(1), interpolation)
    pixels = {}
    for name in ("dali", "pillow"):
        with open_renderer(name, size=224, max_batch=len(drawn)) as renderer:
            (pixels[name],) = renderer.stream([drawn])
    off = difference(pixels["dali"], pixels["pillow"])
    worst = off.mean(dim=(1, 2, 3)).max()
    report = (
        f"mean {off.mean():.3f}, worst image {worst:.3f}, 99th percentile {np.percentile(off, 99):.0f}, "
        f"largest {off.max():.0f}, equal {(off == 0).float().mean():.1%}"
    )
    assert off.mean() < 0.05, report
    assert worst < 0.3, report
    assert np.percentile(off, 99) <= 1, report
    assert off.max() <= 20, report


@pytest.mark.parametrize("name", ["a2", "b"])
def test_whole_views_of_photographs_differ_from_pillows_by_little(name: str) -> None:
    """Rendered by each, then operated on, erased and mixed: a level aside before may be many aside behind."""
    policy, photographs = NAMED[name], [photograph(name) for name in PHOTOGRAPHS]
    encoded = [encode(photo, "JPEG", quality=90) for photo in photographs * 6]
    width, height = np.array([photo.size for photo in photographs * 6]).T
    keys = np.random.default_rng(3).integers(0, 1 << 63, len(encoded)).astype(np.uint64)
    plan = make_plan(policy, 0, 0, keys, height, width)
    views = {}
    for renderer_name in ("dali", "pillow"):
        with open_renderer(renderer_name, size=224, max_batch=len(encoded)) as renderer, Augmenter(policy) as augmenter:
            pixels = renderer.render(encoded, plan.box, cubic=plan.cubic, flips=plan.flip)
            views[renderer_name] = mix(augmenter.apply(pixels, plan), plan.weight, plan.cut, policy.reference_size)
    off = (views["dali"] - views["pillow"]).abs()
    worst, percentile = off.mean(dim=(1, 2, 3)).max(), np.percentile(off, 99)
    report = f"mean {off.mean():.3f}, worst view {worst:.3f}, 99th percentile {percentile:.2f}"
    assert 0 < off.mean() < 0.25, report
    assert worst < 0.3, report
    assert percentile <= 1, report


def random_crops(
    photographs: list[Image.Image], each: int, draws: np.random.Generator, interpolation: str
) -> RenderRequest:
    """timm's random resized crop, `each` times of each photograph."""
    count = len(photographs) * each
    sides = np.repeat([(photo.height, photo.width) for photo in photographs], each, axis=0)
    plan = make_plan(
        Policy(interpolation=interpolation), 0, 0, draws.integers(0, 1 << 63, count).astype(np.uint64), *sides.T
    )
    encoded = [encode(photo, "JPEG", quality=90) for photo in photographs]
    return RenderRequest([encoded[i // each] for i in range(count)], plan.box, cubic=plan.cubic, flips=plan.flip)


@pytest.mark.parametrize(
    ("decode", "advice"),
    [("cpu", "or use --renderer pillow"), ("gpu", "use --decode cpu"), ("hardware", "use --decode cpu")],
)
def test_an_error_about_an_image_offers_another_decoder(decode: str, advice: str) -> None:
    from kdcache.render.dali import broken_for_dali
    from kdcache.render.dali_graph import PipelineError

    text = str(broken_for_dali("k in s at byte 1", PipelineError("no end"), "'two words'", decode))
    assert text.startswith(
        "k in s at byte 1 cannot be decoded: DALI cannot decode its data (no end), though Pillow can"
    )
    assert "`kdcache index 'two words' --check`" in text
    assert advice in text
