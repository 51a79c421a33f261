"""What every renderer promises. A renderer's own test inherits `RendererContract` and says how it is opened."""

import io
import itertools
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdcache.errors import BrokenImageError, DataError, UsageError
from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.opening import open_renderer
from support.images import encode, photograph, png_of_16_bit_rgb, png_of_rows, small_photographs

_EXIF_ROTATED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
_NOISE = np.random.default_rng(3)


def request(
    encoded: Sequence[bytes],
    boxes: Sequence[Sequence[int]],
    flips: Sequence[bool] | None = None,
    name: str = "batch",
) -> RenderRequest:
    return RenderRequest(
        encoded,
        np.asarray(boxes, np.int32),
        np.zeros(len(encoded), bool) if flips is None else np.asarray(flips),
        lambda position: f"{name}-{position} in shard-000002.tar at byte 512",
    )


def tiny_requests(count: int, batch: int) -> list[RenderRequest]:
    """Distinct small images, each with another box and flip; the last request is partial."""
    images = small_photographs(count * batch - batch // 2)
    draws = np.random.default_rng(11)
    corners = draws.integers(0, 8, (len(images), 2))
    boxes = np.concatenate([corners, draws.integers(5, 20, (len(images), 2))], axis=1)
    flips = draws.random(len(images)) < 0.5
    return [
        request(images[start : start + batch], boxes[start : start + batch], flips[start : start + batch])
        for start in range(0, len(images), batch)
    ]


def channels_first(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


def difference(rendered: Tensor, wanted: Tensor) -> Tensor:
    return (rendered.int() - wanted.int()).abs().float()


def _formats() -> dict[str, tuple[bytes, Image.Image]]:
    """File and the RGB image that it holds, as Pillow decodes it by itself (16 bits apart: their high byte)."""
    photo = photograph()
    grey = photo.convert("L")
    palette = photo.quantize(200)
    alpha = photo.copy()
    alpha.putalpha(grey.rotate(90))
    deep = _NOISE.integers(0, 1 << 16, (photo.height, photo.width, 3), dtype=np.uint16)
    files = {
        "jpeg": encode(photo, "JPEG"),
        "progressive jpeg": encode(photo, "JPEG", progressive=True),
        "jpeg with all chroma": encode(photo, "JPEG", subsampling=0),
        "jpeg with junk behind its end": encode(photo, "JPEG") + b"\0" * 9 + b"junk",
        "rgb jpeg": encode(photo, "JPEG", keep_rgb=True),
        "grey jpeg": encode(grey, "JPEG"),
        "cmyk jpeg": encode(photo.convert("CMYK"), "JPEG"),
        "rotated jpeg": encode(photo, "JPEG", exif=_EXIF_ROTATED),
        "png": encode(photo, "PNG"),
        "png with junk behind its end": encode(photo, "PNG") + b"junk",
        "png with alpha": encode(alpha, "PNG"),
        "grey png with alpha": encode(alpha.convert("LA"), "PNG"),
        "palette png": encode(palette, "PNG"),
        "palette png with transparency": encode(palette, "PNG", transparency=bytes(range(200))),
        "palette png of 2 bits": encode(photo.quantize(4), "PNG", bits=2),
        "png of 1 bit": encode(photo.convert("1"), "PNG"),
        "webp": encode(photo, "WEBP"),
        "gif": encode(palette, "GIF"),
        "bmp": encode(photo, "BMP"),
    }
    pillows = {name: (file, _open(file)) for name, file in files.items()}
    high = Image.fromarray((deep >> 8).astype(np.uint8))
    high_grey = Image.fromarray((deep[..., 0] >> 8).astype(np.uint8))
    return pillows | {
        "png of 16 bits": (png_of_16_bit_rgb(deep), high),
        "grey png of 16 bits": (encode(Image.fromarray(deep[..., 0]), "PNG"), high_grey),
        "grey tiff of 16 bits": (encode(Image.fromarray(deep[..., 0]), "TIFF"), high_grey),
    }


def _open(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _broken() -> dict[str, tuple[bytes, str]]:
    """File and what is said of it."""
    jpeg = encode(photograph(), "JPEG")
    thumbnail = encode(photograph().resize((8, 8)), "JPEG")
    exif = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    png = encode(photograph(), "PNG")
    body = len(png) // 2
    unknown_filters = zlib.compress(bytes([9]) * 61 * 20)
    damaged = r"its data are damaged \(.+\)"
    stops = "its JPEG data stop before the end marker"
    return {
        "empty": (b"", "it has no bytes"),
        "garbage": (b"this is no image" * 40, "its bytes are no image that is known here"),
        "jpeg cut in half": (jpeg[: len(jpeg) // 2], stops),
        "jpeg without its last byte": (jpeg[:-1], stops),
        "jpeg cut behind a thumbnail": (jpeg[:2] + exif + jpeg[2 : len(jpeg) // 2], stops),
        "jpeg cut in its header": (jpeg[:100], stops),
        "jpeg without a scan": (jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9", damaged),
        "jpeg with bad tables": (_bad_tables(jpeg), damaged),
        "png cut in half": (png[:body], "its PNG data stop before the end chunk"),
        "png with a damaged body": (
            png[:body] + bytes([png[body] ^ 1]) + png[body + 1 :],
            r"the checksum of a PNG chunk of it, at byte \d+, does not match",
        ),
        "png with unknown filters": (png_of_rows(20, 20, 8, 2, unknown_filters), damaged),
    }


def _bad_tables(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:at] + b"\xff" * 16 + jpeg[at + 16 :]


FORMATS = _formats()
BROKEN = _broken()


class RendererContract:
    name: str

    @classmethod
    def open(cls, size: int = 32, interpolation: str = "bilinear", max_batch: int = 8, threads: int = 2) -> Renderer:
        return open_renderer(cls.name, size=size, interpolation=interpolation, max_batch=max_batch, threads=threads)

    @pytest.fixture(scope="class")
    @classmethod
    def renderer(cls) -> Iterator[Renderer]:
        """32 pixels, batches of 8; shared, so that each test meets what those before it left."""
        with cls.open() as renderer:
            yield renderer

    # Geometry

    @pytest.mark.parametrize("kind", FORMATS)
    def test_a_box_of_the_output_size_is_the_plain_slice(self, renderer: Renderer, kind: str) -> None:
        encoded, image = FORMATS[kind]
        boxes = [(0, 0, 32, 32), (57, 310, 32, 32), (image.height - 32, image.width - 32, 32, 32)]
        (pixels,) = renderer.stream([request([encoded] * 3, boxes)])
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 3, 32, 32)
        assert pixels.is_contiguous()
        for shown, (top, left, height, width) in zip(pixels, boxes, strict=True):
            assert torch.equal(shown, channels_first(image)[:, top : top + height, left : left + width])

    def test_a_flip_mirrors_left_and_right(self, renderer: Renderer) -> None:
        boxes = [(5, 9, 32, 32), (5, 9, 32, 32), (40, 50, 200, 61), (40, 50, 200, 61)]
        encoded = [encode(photograph(), "JPEG")] * 4
        (pixels,) = renderer.stream([request(encoded, boxes, [False, True, False, True])])
        assert torch.equal(pixels[1], pixels[0].flip(2))
        assert torch.equal(pixels[3], pixels[2].flip(2))
        assert not torch.equal(pixels[1], pixels[0])

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize(
        "box",
        [
            (0, 0, 512, 512),
            (17, 101, 300, 90),
            (200, 30, 14, 400),
            (0, 0, 1, 512),
            (0, 511, 512, 1),
            (8, 8, 1, 1),
            (60, 60, 20, 12),
        ],
    )
    def test_other_boxes_are_resized_with_antialiasing(
        self, interpolation: str, box: tuple[int, int, int, int]
    ) -> None:
        """Mean and largest difference are of rounding; without antialiasing the mean is above 2."""
        photo = photograph()
        top, left, height, width = box
        filter = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
        wanted = photo.crop((left, top, left + width, top + height)).resize((64, 64), filter)
        with self.open(size=64, interpolation=interpolation) as renderer:
            (pixels,) = renderer.stream([request([encode(photo, "PNG")], [box])])
        off = difference(pixels[0], channels_first(wanted))
        assert off.mean() < 0.25
        assert off.max() <= 12

    def test_tiny_images_grow(self, renderer: Renderer) -> None:
        images = small_photographs(4)
        (pixels,) = renderer.stream([request(images, [(0, 0, 28, 28)] * 4)])
        for shown, encoded in zip(pixels, images, strict=True):
            wanted = _open(encoded).resize((32, 32), Image.Resampling.BILINEAR)
            assert difference(shown, channels_first(wanted)).max() <= 1

    def test_an_image_of_one_pixel_fills_the_output(self, renderer: Renderer) -> None:
        pixel = encode(Image.new("RGB", (1, 1), (10, 20, 30)), "PNG")
        (pixels,) = renderer.stream([request([pixel], [(0, 0, 1, 1)], [True])])
        assert torch.equal(pixels[0], torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32))

    def test_a_box_over_the_edge_is_refused_by_name(self, renderer: Renderer) -> None:
        encoded = [encode(photograph(), "JPEG")] * 2
        message = (
            r"^batch-1 in shard-000002\.tar at byte 512 is 512 x 512 pixels, but rows 490 to 522 and columns 0 "
            r"to 32 of it were asked for\..*`kdcache index DATA`"
        )
        with pytest.raises(DataError, match=message):
            list(renderer.stream([request(encoded, [(0, 0, 32, 32), (490, 0, 32, 32)])]))
        self.expect_working(renderer)

    # Batches

    def test_pixels_do_not_depend_on_the_batch(self) -> None:
        encoded = [file for file, _ in FORMATS.values()]
        draws = np.random.default_rng(5)
        corners = draws.integers(0, 200, (len(encoded), 2))
        boxes = np.concatenate([corners, draws.integers(1, 300, (len(encoded), 2))], axis=1)
        flips = draws.random(len(encoded)) < 0.5

        def rendered(order: Sequence[int], batch: int, threads: int) -> Tensor:
            with self.open(max_batch=len(encoded), threads=threads) as renderer:
                parts = renderer.stream(
                    request([encoded[i] for i in chosen], boxes[chosen], flips[chosen])
                    for chosen in (list(order[at : at + batch]) for at in range(0, len(order), batch))
                )
                return torch.cat(list(parts))

        everything = range(len(encoded))
        alone = rendered(everything, 1, 1)
        assert torch.equal(rendered(everything, len(encoded), 3), alone)
        assert torch.equal(rendered(everything, 5, 2), alone)
        assert torch.equal(rendered(everything[::-1], 7, 2).flip(0), alone)

    def test_a_stream_keeps_order_and_delivers_the_last_partial_batch(self, renderer: Renderer) -> None:
        requests = tiny_requests(7, 8)
        streamed = list(renderer.stream(requests))
        assert [len(pixels) for pixels in streamed] == [8] * 6 + [4]
        for pixels, one in zip(streamed, requests, strict=True):
            assert torch.equal(pixels, renderer.render(one.encoded, one.boxes, one.flips))

    def test_pixels_that_were_delivered_stay_as_they_are(self, renderer: Renderer) -> None:
        requests = tiny_requests(40, 4)
        kept, copies = [], []
        for pixels in renderer.stream(requests):
            kept.append(pixels)
            copies.append(pixels.clone())
        assert len({pixels.data_ptr() for pixels in kept}) == len(kept)
        assert all(map(torch.equal, kept, copies))

    def test_running_ahead_is_bounded_and_can_be_given_up(self, renderer: Renderer) -> None:
        requests = tiny_requests(3, 8)
        taken = itertools.count()
        stream = renderer.stream(requests[next(taken) % 3] for _ in itertools.count())
        for _ in range(5):
            next(stream)
        assert next(taken) <= 5 + 4
        stream.close()
        self.expect_working(renderer)

    def test_one_stream_at_a_time(self, renderer: Renderer) -> None:
        stream = renderer.stream(tiny_requests(3, 8))
        next(stream)
        with pytest.raises(UsageError, match="still streaming"):
            next(renderer.stream(tiny_requests(1, 8)))
        assert len(list(stream)) == 2
        self.expect_working(renderer)

    def test_an_error_of_the_source_passes_and_leaves_the_renderer_whole(self, renderer: Renderer) -> None:
        def source() -> Iterator[RenderRequest]:
            yield from tiny_requests(4, 8)
            raise DataError("the disk is gone")

        with pytest.raises(DataError, match="the disk is gone"):
            list(renderer.stream(source()))
        self.expect_working(renderer)

    def test_a_request_above_the_batch_is_refused(self, renderer: Renderer) -> None:
        with pytest.raises(UsageError, match="9 images, but this renderer was opened for at most 8"):
            renderer.render([b""] * 9, np.ones((9, 4), np.int32), np.zeros(9, bool))

    # Broken images

    @pytest.mark.parametrize("kind", BROKEN)
    def test_a_broken_image_is_named_in_its_turn(self, renderer: Renderer, kind: str) -> None:
        encoded, reason = BROKEN[kind]
        requests = tiny_requests(6, 8)
        broken = requests[4]
        requests[4] = request(
            [*broken.encoded[:6], encoded, broken.encoded[7]],
            [*broken.boxes[:6], (0, 0, 2, 2), broken.boxes[7]],
            broken.flips.tolist(),
            "leopard",
        )
        delivered = []
        message = (
            rf"^leopard-6 in shard-000002\.tar at byte 512 cannot be decoded: {reason}\. "
            r"Remove or repair that sample, then run `kdcache index DATA` again\.$"
        )
        with pytest.raises(BrokenImageError, match=message):
            delivered.extend(renderer.stream(requests))
        self.expect_pixels(delivered, requests[:4])
        self.expect_working(renderer)

    def test_the_first_of_two_broken_images_is_named(self, renderer: Renderer) -> None:
        good, (bad, _) = encode(photograph(), "JPEG"), BROKEN["jpeg with bad tables"]
        boxes = [(0, 0, 9, 9)] * 8
        requests = [
            request([good] * 8, boxes, name="good"),
            request([good] * 3 + [bad] + [good] * 3 + [bad], boxes, name="first"),
            request([bad] * 8, boxes, name="second"),
        ]
        with pytest.raises(BrokenImageError, match=r"^first-3 "):
            list(renderer.stream(requests))
        self.expect_working(renderer)

    # Closing

    def test_close_ends_its_threads(self) -> None:
        with self.open() as renderer:
            self.expect_working(renderer)  # what a library starts once and keeps is there now
        before = _threads()
        renderer = self.open(threads=3)
        self.expect_working(renderer)
        gif, _ = FORMATS["gif"]
        renderer.render([gif] * 8, np.ones((8, 4), np.int32), np.zeros(8, bool))
        its_own = _threads() - before
        assert its_own
        renderer.close()
        renderer.close()
        assert _eventually(lambda: its_own.isdisjoint(_threads()))

    def test_a_closed_renderer_says_so(self) -> None:
        renderer = self.open()
        stream = renderer.stream(tiny_requests(6, 8))
        next(stream)
        renderer.close()
        with pytest.raises(UsageError, match="This renderer is closed"):
            next(stream)
        with pytest.raises(UsageError, match="This renderer is closed"):
            renderer.render([b""], np.ones((1, 4), np.int32), np.zeros(1, bool))

    # Means

    def expect_working(self, renderer: Renderer) -> None:
        requests = tiny_requests(5, 8)
        self.expect_pixels(list(renderer.stream(requests)), requests)

    def expect_pixels(self, delivered: list[Tensor], requests: list[RenderRequest]) -> None:
        """What a renderer gives that has seen nothing else."""
        with self.open() as fresh:
            wanted = [fresh.render(one.encoded, one.boxes, one.flips) for one in requests]
        assert len(delivered) == len(wanted)
        assert all(map(torch.equal, delivered, wanted))


def _threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def _eventually(holds: Callable[[], bool]) -> bool:
    """A thread that has ended is listed for a moment longer."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()
