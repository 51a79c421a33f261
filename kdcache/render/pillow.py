"""The reference renderer: Pillow, in threads.

Pixels equal those of torchvision's image loader, `resized_crop` and `hflip`, or of timm's evaluation transform. Pillow
releases the interpreter lock while it decodes and resizes, so threads run in parallel.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.encoded import load_part
from kdcache.render.evaluation import resize_and_cut

#: Requests that are rendered while the consumer holds the one before them.
_MAX_AHEAD = 2
#: Pieces of a request for each thread. Several, so that threads end at about the same time; few, so that tiny images
#: share a piece.
_PIECES_PER_THREAD = 4


class PillowRenderer(Renderer):
    """Renders with Pillow on the CPU; the finished pixels are copied to another device."""

    name = "pillow"
    decodes_on_gpu = False

    def _open(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kdcache-pillow")

    def _stream(self, requests: Iterator[RenderRequest]) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        in_flight: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for request in requests:
                in_flight.append(self._submit(request))
                if len(in_flight) > _MAX_AHEAD:
                    yield self._collect(*in_flight[0])
                    in_flight.popleft()
            while in_flight:
                yield self._collect(*in_flight[0])
                in_flight.popleft()
        finally:
            for _, pieces in in_flight:
                for piece in pieces:
                    piece.cancel()

    def _submit(self, request: RenderRequest) -> tuple[Tensor, list[Future[None]]]:
        """Start rendering: memory for the pixels, and the tasks that fill it."""
        pixels = self._allocate(len(request))
        step = -(-len(request) // (_PIECES_PER_THREAD * self.threads))
        all_positions = range(len(request))
        pieces = [
            self._pool.submit(self._fill, pixels.numpy(), request, positions)
            for positions in (all_positions[start : start + step] for start in all_positions[::step])
        ]
        return pixels, pieces

    def _collect(self, pixels: Tensor, pieces: list[Future[None]]) -> Tensor:
        """Wait for the tasks of a request, and return its pixels on the device."""
        for piece in pieces:  # in order: the first broken image of a request is the one that is named
            piece.result()
        return self._to_device(pixels)

    def _fill(self, pixels: UInt8[np.ndarray, "b 3 s s"], request: RenderRequest, positions: range) -> None:
        for position in positions:
            name = partial(request.describe, position)
            part = load_part(request.encoded[position], request.boxes[position], name, request.data)
            cubic = bool(request.cubic[position])
            if request.crop_pct is None:
                filter = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
                shown = np.asarray(part.resize((self.size, self.size), filter))
            else:
                shown = np.asarray(resize_and_cut(part, self.size, request.crop_pct, cubic))
            if request.flips[position]:
                shown = shown[:, ::-1]
            pixels[position] = shown.transpose(2, 0, 1)

    @property
    def version(self) -> str:
        """The name and the version of Pillow, and where it decodes: "pillow 13.0.0 cpu"."""
        return f"pillow {PIL.__version__} {self.decode}"

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
