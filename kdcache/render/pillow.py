"""The reference renderer: Pillow, in threads.

Pixels equal torchvision's `resized_crop` and `hflip` on what its image loader returns, or those of timm's evaluation
transform. Pillow lets go of the interpreter while it decodes and resizes, so threads run side by side.
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

# Requests in the threads' hands while the consumer holds another.
_AHEAD = 2
# Pieces of a request for each thread: several, so that threads end together; few, as tiny images share one.
_PIECES = 4


class PillowRenderer(Renderer):
    """Renders with Pillow on the CPU; for another device the finished pixels are copied."""

    name = "pillow"
    decodes_on_gpu = False

    def _open(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kdcache-pillow")

    def _stream(self, requests: Iterator[RenderRequest]) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        flying: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for request in requests:
                flying.append(self._launch(request))
                if len(flying) > _AHEAD:
                    yield self._land(*flying[0])
                    flying.popleft()
            while flying:
                yield self._land(*flying[0])
                flying.popleft()
        finally:
            for _, pieces in flying:
                for piece in pieces:
                    piece.cancel()

    def _launch(self, request: RenderRequest) -> tuple[Tensor, list[Future[None]]]:
        pixels = self._room(len(request))
        step = -(-len(request) // (_PIECES * self.threads))
        everything = range(len(request))
        pieces = [
            self._pool.submit(self._fill, pixels.numpy(), request, positions)
            for positions in (everything[start : start + step] for start in everything[::step])
        ]
        return pixels, pieces

    def _land(self, pixels: Tensor, pieces: list[Future[None]]) -> Tensor:
        for piece in pieces:  # in order: the first broken image of a request is the one that is named
            piece.result()
        return self._hand_over(pixels)

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
        """Pillow's."""
        return f"pillow {PIL.__version__} {self.decode}"

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
