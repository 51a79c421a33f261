"""What every renderer promises. A renderer's own test inherits `RendererContract` and says how it is opened."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdcache.errors import BrokenImageError, DataError, UsageError
from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.opening import open_renderer
from kdcache.runtime.prefetch import prefetch
from support.image_files import BROKEN, FORMATS, open_rgb, pixels_alone
from support.images import encode, photograph, small_photographs

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def request(
    encoded: Sequence[bytes],
    boxes: Sequence[Sequence[int]],
    flips: Sequence[bool] | None = None,
    cubic: Sequence[bool] | None = None,
    name: str = "batch",
) -> RenderRequest:
    """Not flipped and bilinear unless told otherwise."""
    no = [False] * len(encoded)
    return RenderRequest(
        encoded,
        np.asarray(boxes, np.int32),
        cubic=np.asarray(no if cubic is None else cubic),
        flips=np.asarray(no if flips is None else flips),
        describe=lambda position: f"{name}-{position} in shard-000002.tar at byte 512",
    )


def tiny_requests(count: int, batch: int) -> list[RenderRequest]:
    """Distinct small images, each with another box, flip and filter; the last request is partial."""
    images = small_photographs(count * batch - batch // 2)
    draws = np.random.default_rng(11)
    corners = draws.integers(0, 8, (len(images), 2))
    boxes = np.concatenate([corners, draws.integers(5, 20, (len(images), 2))], axis=1)
    flips, cubic = draws.random((2, len(images))) < 0.5
    parts = [slice(start, start + batch) for start in range(0, len(images), batch)]
    return [request(images[part], boxes[part], flips[part], cubic[part]) for part in parts]


def channels_first(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


def difference(rendered: Tensor, wanted: Tensor) -> Tensor:
    return (rendered.cpu().int() - wanted.int()).abs().float()


class RendererContract:
    name: str
    device = "cpu"
    decode = "cpu"
    decoding_error = 0.0
    """Mean difference, in levels, by which decoding may differ from Pillow's."""

    @classmethod
    def open(cls, size: int = 32, max_batch: int = 8, threads: int = 2) -> Renderer:
        return open_renderer(
            cls.name, size=size, max_batch=max_batch, threads=threads, device=cls.device, decode=cls.decode
        )

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
        down, right = image.height - 32, image.width - 32
        boxes = [(0, 0, 32, 32), (down // 8, right // 2, 32, 32), (down, right, 32, 32)]
        (pixels,) = renderer.stream([request([encoded] * 3, boxes)])
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 3, 32, 32)
        assert pixels.is_contiguous()
        assert pixels.device == renderer.device
        for shown, (top, left, height, width) in zip(pixels, boxes, strict=True):
            off = difference(shown, channels_first(image)[:, top : top + height, left : left + width])
            assert off.mean() <= self.decoding_error

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
        wanted = photo.crop((left, top, left + width, top + height)).resize((64, 64), FILTERS[interpolation])
        with self.open(size=64) as renderer:
            cubic = [interpolation == "bicubic"]
            (pixels,) = renderer.stream([request([encode(photo, "PNG")], [box], cubic=cubic)])
        off = difference(pixels[0], channels_first(wanted))
        assert off.mean() < 0.25 + self.decoding_error
        assert off.max() <= 12

    def test_each_image_has_a_filter_of_its_own(self, renderer: Renderer) -> None:
        encoded, cubic = [encode(photograph(), "JPEG")] * 8, [True, False, False, True, True, True, False, True]
        (pixels,) = renderer.stream([request(encoded, [(20, 30, 301, 203)] * 8, cubic=cubic)])
        shown = {bool(one): pixels[cubic.index(one)] for one in cubic}
        assert difference(shown[True], shown[False].cpu()).mean() > 1
        assert all(torch.equal(image, shown[one]) for image, one in zip(pixels, cubic, strict=True))

    def test_tiny_images_grow(self, renderer: Renderer) -> None:
        images = small_photographs(4)
        (pixels,) = renderer.stream([request(images, [(0, 0, 28, 28)] * 4)])
        for shown, encoded in zip(pixels, images, strict=True):
            wanted = open_rgb(encoded).resize((32, 32), Image.Resampling.BILINEAR)
            assert difference(shown, channels_first(wanted)).max() <= 1

    @pytest.mark.parametrize(("kind", "pixel"), pixels_alone().items())
    @pytest.mark.parametrize("cubic", [False, True])
    def test_an_image_of_one_pixel_fills_the_output(
        self, renderer: Renderer, kind: str, pixel: bytes, cubic: bool
    ) -> None:
        (pixels,) = renderer.stream([request([pixel], [(0, 0, 1, 1)], [True], [cubic])])
        assert difference(pixels[0], channels_first(open_rgb(pixel)).expand(3, 32, 32)).mean() <= self.decoding_error

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
        sides = np.array([(image.height, image.width) for _, image in FORMATS.values()])
        corners = (draws.uniform(0, 0.4, (len(encoded), 2)) * sides).astype(int)
        boxes = np.concatenate([corners, (draws.uniform(0.05, 0.6, (len(encoded), 2)) * sides).astype(int)], axis=1)
        flips, cubic = draws.random((2, len(encoded))) < 0.5

        def rendered(order: Sequence[int], batch: int, threads: int) -> Tensor:
            with self.open(max_batch=len(encoded), threads=threads) as renderer:
                parts = renderer.stream(
                    request([encoded[i] for i in chosen], boxes[chosen], flips[chosen], cubic[chosen])
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
            assert torch.equal(pixels, self.rendered(renderer, one))

    def test_a_stream_may_run_in_a_thread_ahead_of_its_consumer(self, renderer: Renderer) -> None:
        requests = tiny_requests(9, 8)
        self.expect_pixels(list(prefetch(renderer.stream(requests), depth=2)), requests)
        given_up = prefetch(renderer.stream(requests), depth=2)
        next(given_up)
        given_up.close()
        self.expect_working(renderer)

    def test_nothing_is_drawn(self, renderer: Renderer) -> None:
        """Python's own generator is left out: the types' checker draws from it."""
        requests = tiny_requests(3, 8)
        before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
        once = list(renderer.stream(requests))
        assert (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()) == before
        assert all(map(torch.equal, renderer.stream(requests), once))

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
            self.rendered(renderer, request([b""] * 9, [(0, 0, 1, 1)] * 9))

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
            broken.cubic.tolist(),
            "leopard",
        )
        delivered = []
        message = (
            rf"^leopard-6 in shard-000002\.tar at byte 512 cannot be decoded: {reason}\. "
            r"`kdcache index DATA --check` finds all .* `kdcache index DATA --mark-bad` marks them as lost, and .*"
            r" stay usable; --drop-bad .* refused; or repair that sample\.$"
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
        self.rendered(renderer, request([gif] * 8, [(1, 1, 1, 1)] * 8))
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
            self.rendered(renderer, request([b""], [(1, 1, 1, 1)]))

    # Means

    def rendered(self, renderer: Renderer, one: RenderRequest) -> Tensor:
        return renderer.render(one.encoded, one.boxes, cubic=one.cubic, flips=one.flips)

    def expect_working(self, renderer: Renderer) -> None:
        requests = tiny_requests(5, 8)
        self.expect_pixels(list(renderer.stream(requests)), requests)

    def expect_pixels(self, delivered: list[Tensor], requests: list[RenderRequest]) -> None:
        """What a renderer gives that has seen nothing else."""
        with self.open() as fresh:
            wanted = [self.rendered(fresh, one) for one in requests]
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
