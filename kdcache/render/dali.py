"""The fast renderer: one DALI graph that is fed by position and draws no random numbers.

On the GPU the graph decodes, crops, resizes and flips. On the CPU it decodes and crops; its resize would take twice
the time of its decoder there, so threads of ours take over with torch's kernel. Common JPEGs and 8-bit PNGs go to DALI
as they are; every other kind is read by Pillow and handed on as plain RGB, so that it looks alike in both renderers.
What shall look as in timm's evaluation is decoded and resized by Pillow, as there, and handed on likewise.

One broken image costs DALI its whole pipeline. So bytes are checked before they go in. Should DALI fail all the
same, a new pipeline takes over, what came before the failure is rendered again, and the image to blame is named.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from kdcache.errors import BrokenImageError, DataError, DeviceError, KdcacheError
from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.dali_graph import IN_FLIGHT, VERSION, Graph, LostError, refused_by_dali
from kdcache.render.encoded import UndecodableError, broken_image, check_whole, is_plain, load_part
from kdcache.render.evaluation import resize_and_cut
from kdcache.render.resize import resize_into

# Pieces of a batch for each thread: several, so that threads end together; few, as tiny images share one.
_PIECES = 4


class DaliRenderer(Renderer):
    """Renders with DALI; see `Renderer`."""

    name = "dali"
    decodes_on_gpu = True

    def _open(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kdcache-dali")
        self._graph = self._open_graph()

    def _open_graph(self) -> Graph:
        gpu = (self.device.index or 0) if self.decode == "gpu" else None
        return Graph(self.size, self.max_batch, self.threads, gpu)

    def _land(self, request: RenderRequest) -> UInt8[Tensor, "b 3 s s"]:
        """Wait for the oldest request in flight, this one, and take its pixels out of memory that DALI uses again."""
        if self.decode == "gpu":
            # Copied in the order of torch's current stream, which alone waits for it.
            with self._graph.landed(torch.cuda.current_stream(self.device)) as made:
                return from_dlpack(made.as_tensor()).clone()
        with self._graph.landed() as parts:
            pixels = self._room(len(request))
            list(self._pool.map(partial(_resize, request, parts, pixels.numpy()), self._pieces(len(request))))
        return self._hand_over(pixels)

    def _pieces(self, count: int) -> Iterator[range]:
        step = -(-count // (_PIECES * self.threads))
        return (range(count)[start : start + step] for start in range(0, count, step))

    def _stream(self, requests: Iterator[RenderRequest]) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        flying: deque[RenderRequest] = deque()
        refused: DataError | None = None
        try:
            while True:
                while refused is None and len(flying) < IN_FLIGHT and (request := next(requests, None)):
                    try:
                        self._launch(request)
                    except DataError as error:
                        refused = error  # is raised when its turn comes
                    else:
                        flying.append(request)
                if not flying:
                    break
                try:
                    pixels = self._land(flying[0])
                except LostError as error:
                    lost = list(flying)
                    flying.clear()
                    yield from self._find_culprit(lost, error)
                flying.popleft()
                yield pixels
            if refused is not None:
                raise refused
        finally:
            self._drain(len(flying))

    def _launch(self, request: RenderRequest) -> None:
        """Start rendering; raises BrokenImageError or DataError, and starts nothing, for what is plainly wrong."""
        encoded, boxes, odd = list(request.encoded), request.boxes.copy(), []
        for position, data in enumerate(encoded):
            try:
                check_whole(data)
            except UndecodableError as error:
                raise broken_image(request.describe(position), error, request.data) from error
            if request.crop_pct is not None or not is_plain(data):
                odd.append(position)
        parts = self._pool.map(partial(_load, request, self.size), odd)
        for position, part in zip(odd, parts, strict=True):
            encoded[position] = b"P6 %d %d 255\n" % part.size + part.tobytes()
            boxes[position] = (0, 0, part.height, part.width)
        self._graph.launch(encoded, boxes, request.cubic, request.flips)

    def _find_culprit(
        self, lost: list[RenderRequest], error: LostError
    ) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        """Render the requests that DALI's failure took along once more, up to the image to blame; always raises."""
        self._graph = self._open_graph()
        for request in lost:
            # Raises where Pillow cannot decode an image either.
            deque(self._pool.map(partial(_load, request, self.size), range(len(request))), maxlen=0)
            try:
                self._launch(request)
                pixels = self._land(request)
            except LostError as again:
                raise self._refusal(request, again) from error
            yield pixels
        raise DeviceError(
            f"DALI failed once and not again on the same images ({error}). "
            "Run the same command again; should it come back, use --renderer pillow."
        ) from error

    def _refusal(self, request: RenderRequest, error: LostError) -> KdcacheError:
        """The error for a request that Pillow renders and DALI does not: it names the image if one is to blame."""
        self._graph = self._open_graph()
        for position, data in enumerate(request.encoded):
            one = slice(position, position + 1)
            try:
                alone = RenderRequest(
                    [data],
                    request.boxes[one],
                    cubic=request.cubic[one],
                    flips=request.flips[one],
                    crop_pct=request.crop_pct,
                )
                self._launch(alone)
                self._land(alone)
            except LostError as refusal:
                self._graph = self._open_graph()
                return broken_for_dali(request.describe(position), refusal, request.data, self.decode)
        return DeviceError(
            f"DALI cannot render {len(request)} images at once, though each alone ({error}). "
            "Use a smaller --batch-size, or --renderer pillow."
        )

    def _drain(self, count: int) -> None:
        try:
            for _ in range(0 if self._closed else count):
                self._graph.drop()
        except LostError:  # of a request that nobody waits for any more
            self._graph = self._open_graph()

    @property
    def version(self) -> str:
        """DALI's, and where it decodes."""
        return f"dali {VERSION} {self.decode}"

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        del self._graph


def broken_for_dali(name: str, error: LostError, data: str, decode: str) -> BrokenImageError:
    """The error for the image called `name`, which DALI refuses where it decodes and Pillow shows."""
    if decode != "gpu":
        return broken_image(name, refused_by_dali(error), data, ", or use --renderer pillow")
    return BrokenImageError(
        f"{name} cannot be decoded: {refused_by_dali(error)}. On the CPU DALI has other decoders: use --decode cpu, or "
        f"repair that sample. `kdcache index {data} --check` finds such images as those refuse as well."
    )


def _resize(request: RenderRequest, parts: Any, pixels: UInt8[np.ndarray, "b 3 s s"], positions: range) -> None:
    for position in positions:
        resize_into(
            pixels[position],
            np.asarray(parts[position]),
            bool(request.cubic[position]),
            bool(request.flips[position]),
        )


def _load(request: RenderRequest, size: int, position: int) -> Image.Image:
    """What Pillow makes of an image before DALI has it: the part of the box, or already what timm would evaluate on."""
    name = partial(request.describe, position)
    part = load_part(request.encoded[position], request.boxes[position], name, request.data)
    if request.crop_pct is None:
        return part
    return resize_and_cut(part, size, request.crop_pct, bool(request.cubic[position]))
