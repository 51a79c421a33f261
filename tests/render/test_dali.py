import platform
import sys
import zlib

import numpy as np
import pytest

from kdcache.errors import BrokenImageError
from kdcache.render.opening import open_renderer
from support.images import PHOTOGRAPHS, encode, photograph, png_of_rows
from support.renderer_contract import RendererContract, difference, request, tiny_requests

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="DALI exists for Linux on x86_64 alone"
)


class TestDaliRenderer(RendererContract):
    name = "dali"

    def test_an_image_that_dali_alone_refuses_is_named(self) -> None:
        """Compressed data without their own checksum: Pillow reads the rows and does not ask for it."""
        noise = np.random.default_rng(2).bytes(20 * 60)
        rows = b"".join(b"\0" + noise[at : at + 60] for at in range(0, len(noise), 60))
        odd = png_of_rows(20, 20, 8, 2, zlib.compress(rows)[:-4])
        requests = tiny_requests(4, 8)
        good = requests[2]
        requests[2] = request(
            [*good.encoded[:5], odd, *good.encoded[6:]], [*good.boxes[:5], (0, 0, 9, 9), *good.boxes[6:]]
        )
        with self.open() as renderer:
            delivered = []
            with pytest.raises(BrokenImageError, match=r"^batch-5 in .* DALI refuses its data \(.+\), though"):
                delivered.extend(renderer.stream(requests))
            self.expect_pixels(delivered, requests[:2])
            self.expect_working(renderer)
        with open_renderer("pillow", size=8, interpolation="bilinear", max_batch=1) as pillow:
            corner = pillow.render([odd], np.array([[0, 0, 8, 8]], np.int32), np.array([False]))
        assert corner[0, :, 0, 0].tolist() == list(noise[:3])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photographs_differ_from_pillows_by_rounding_alone(interpolation: str) -> None:
    """Random resized crops of photographs to 224: the same geometry, and a mean difference below 0.25 levels."""
    draws = np.random.default_rng(1)
    encoded, boxes = [], []
    for name in PHOTOGRAPHS:
        photo = photograph(name)
        for _ in range(8):
            area = draws.uniform(0.08, 1) * photo.height * photo.width
            aspect = np.exp(draws.uniform(np.log(3 / 4), np.log(4 / 3)))
            height = min(photo.height, round(np.sqrt(area / aspect)))
            width = min(photo.width, round(np.sqrt(area * aspect)))
            top = draws.integers(photo.height - height + 1)
            left = draws.integers(photo.width - width + 1)
            encoded.append(encode(photo, "JPEG", quality=90))
            boxes.append((top, left, height, width))
    flips = draws.random(len(encoded)) < 0.5
    pixels = {}
    for name in ("dali", "pillow"):
        with open_renderer(name, size=224, interpolation=interpolation, max_batch=len(encoded)) as renderer:
            pixels[name] = renderer.render(encoded, np.array(boxes, np.int32), flips)
    off = difference(pixels["dali"], pixels["pillow"])
    worst = off.mean(dim=(1, 2, 3)).max()
    report = (
        f"mean {off.mean():.3f}, worst image {worst:.3f}, 99th percentile {np.percentile(off, 99):.0f}, "
        f"largest {off.max():.0f}, equal {(off == 0).float().mean():.1%}"
    )
    assert off.mean() < 0.25, report
    assert worst < 0.3, report
    assert off.max() <= 20, report
