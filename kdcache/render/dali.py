"""The fast renderer: one DALI pipeline that gets boxes and flips as inputs and draws no random numbers.

On the GPU the pipeline decodes, crops, resizes and flips. On the CPU it decodes and crops; its resize would take twice
the time of its decoder there, so threads of this renderer resize with torch's kernel. Common JPEGs and 8-bit PNGs go
to DALI as they are. Images of other kinds are decoded by Pillow and passed on as plain RGB, so that they look alike in
both renderers. For timm's evaluation transform Pillow decodes and resizes all images, as timm does.

One broken image makes DALI's whole pipeline fail. So bytes are checked before DALI gets them. If DALI fails all the
same, a new pipeline is opened, the requests before the failure are rendered again, and the broken image is named.
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
from kdcache.render.dali_graph import IN_FLIGHT, VERSION, Graph, PipelineError, describe_refusal
from kdcache.render.encoded import UndecodableError, broken_image, check_whole, is_plain, load_part
from kdcache.render.evaluation import resize_and_cut

#: Pieces of a request for each thread. Several, so that threads end at about the same time; few, so that tiny images
#: share a piece.
_PIECES_PER_THREAD = 4


class DaliRenderer(Renderer):
    """Renders with DALI, on the CPU or on a GPU."""

    name = "dali"
    decodes_on_gpu = True

    def _open(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kdcache-dali")
        self._graph = self._open_graph()

    def _open_graph(self) -> Graph:
        gpu = None if self.decode == "cpu" else self.device.index or 0
        return Graph(self.size, self.max_batch, self.threads, gpu, in_hardware=self.decode == "hardware")

    def _collect(self, request: RenderRequest) -> UInt8[Tensor, "b 3 s s"]:
        """Wait for `request`, the oldest in flight, and copy its pixels out of memory that DALI uses again."""
        if self.decode != "cpu":
            # Only torch's current stream waits for DALI, and the copy is ordered in it.
            with self._graph.outputs(torch.cuda.current_stream(self.device)) as output:
                return from_dlpack(output.as_tensor()).clone()
        with self._graph.outputs() as parts:
            pixels = self._allocate(len(request))
            list(self._pool.map(partial(_resize, request, parts, pixels.numpy()), self._pieces(len(request))))
        return self._to_device(pixels)

    def _pieces(self, count: int) -> Iterator[range]:
        step = -(-count // (_PIECES_PER_THREAD * self.threads))
        return (range(count)[start : start + step] for start in range(0, count, step))

    def _stream(self, requests: Iterator[RenderRequest]) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        in_flight: deque[RenderRequest] = deque()
        refused: DataError | None = None
        try:
            while True:
                while refused is None and len(in_flight) < IN_FLIGHT and (request := next(requests, None)):
                    try:
                        self._launch(request)
                    except DataError as error:
                        refused = error  # which is raised after the requests in flight have been delivered
                    else:
                        in_flight.append(request)
                if not in_flight:
                    break
                try:
                    pixels = self._collect(in_flight[0])
                except PipelineError as error:
                    lost = list(in_flight)
                    in_flight.clear()
                    yield from self._find_broken_image(lost, error)
                in_flight.popleft()
                yield pixels
            if refused is not None:
                raise refused
        finally:
            self._drain(len(in_flight))

    def _launch(self, request: RenderRequest) -> None:
        """Start rendering; for a wrong image or box raise BrokenImageError or DataError, and start nothing."""
        encoded, boxes, for_pillow = list(request.encoded), request.boxes.copy(), []
        for position, data in enumerate(encoded):
            try:
                check_whole(data)
            except UndecodableError as error:
                raise broken_image(request.describe(position), error, request.data) from error
            if request.crop_pct is not None or not is_plain(data):
                for_pillow.append(position)
        parts = self._pool.map(partial(_load, request, self.size), for_pillow)
        for position, part in zip(for_pillow, parts, strict=True):
            encoded[position] = b"P6 %d %d 255\n" % part.size + part.tobytes()
            boxes[position] = (0, 0, part.height, part.width)
        self._graph.launch(encoded, boxes, request.cubic, request.flips)

    def _find_broken_image(
        self, lost: list[RenderRequest], error: PipelineError
    ) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        """Render the requests that were lost with the pipeline once more, up to the broken image.

        Raises:
            BrokenImageError: an image cannot be decoded, which is why the pipeline failed.
            DeviceError: DALI fails at no single image, or not again.
        """
        self._graph = self._open_graph()
        for request in lost:
            # This raises if Pillow cannot decode an image either.
            deque(self._pool.map(partial(_load, request, self.size), range(len(request))), maxlen=0)
            try:
                self._launch(request)
                pixels = self._collect(request)
            except PipelineError as again:
                raise self._refusal(request, again) from error
            yield pixels
        raise DeviceError(
            f"DALI failed once and not again on the same images ({error}). "
            "Run the same command again; should it come back, use --renderer pillow."
        ) from error

    def _refusal(self, request: RenderRequest, error: PipelineError) -> KdcacheError:
        """Return the error for a request that Pillow renders and DALI does not, with the image that DALI refuses."""
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
                self._collect(alone)
            except PipelineError as refusal:
                self._graph = self._open_graph()
                return broken_for_dali(request.describe(position), refusal, request.data, self.decode)
        return DeviceError(
            f"DALI cannot render {len(request)} images at once, though each alone ({error}). "
            "Use a smaller --batch-size, or --renderer pillow."
        )

    def _drain(self, count: int) -> None:
        """Drop the requests in flight, so that the pipeline can serve another stream."""
        try:
            for _ in range(0 if self._closed else count):
                self._graph.drop()
        except PipelineError:  # in a request whose pixels are no longer needed
            self._graph = self._open_graph()

    @property
    def version(self) -> str:
        """The name and the version of DALI, and where it decodes, such as "dali 2.4.0 gpu"."""
        return f"dali {VERSION} {self.decode}"

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        del self._graph


def broken_for_dali(name: str, error: PipelineError, data: str, decode: str) -> BrokenImageError:
    """Return the error for an image that DALI refuses and Pillow decodes.

    Args:
        name: name of the image.
        error: failure of DALI at this image alone.
        data: shards of the image, as a command takes them.
        decode: place where DALI decodes, "cpu", "gpu" or "hardware".
    """
    if decode == "cpu":
        return broken_image(name, describe_refusal(error), data, ", or use --renderer pillow")
    return BrokenImageError(
        f"{name} cannot be decoded: {describe_refusal(error)}. On the CPU DALI has other decoders: use --decode cpu, "
        f"or repair that sample. `kdcache index {data} --check` finds such images as those refuse as well."
    )


def _resize(request: RenderRequest, parts: Any, pixels: UInt8[np.ndarray, "b 3 s s"], positions: range) -> None:
    """Resize and flip the parts at some positions of a request into `pixels`."""
    for position in positions:
        resize_into(
            pixels[position],
            np.asarray(parts[position]),
            bool(request.cubic[position]),
            bool(request.flips[position]),
        )


def _load(request: RenderRequest, size: int, position: int) -> Image.Image:
    """Decode an image with Pillow and cut out its box; for timm's evaluation transform, resize it as well."""
    name = partial(request.describe, position)
    part = load_part(request.encoded[position], request.boxes[position], name, request.data)
    if request.crop_pct is None:
        return part
    return resize_and_cut(part, size, request.crop_pct, bool(request.cubic[position]))


def resize_into(out: UInt8[np.ndarray, "3 s s"], image: UInt8[np.ndarray, "h w 3"], cubic: bool, flip: bool) -> None:
    """Resize an image into `out`, antialiased, by torch's kernel for 8-bit values.

    It is Pillow's algorithm with Pillow's filters in vector instructions of the processor. It takes a third of Pillow's
    time and a quarter of the time of DALI's operator on the CPU, and its pixels are nearer to Pillow's than DALI's are.

    Args:
        out: planes of red, green and blue that are written.
        image: RGB image.
        cubic: whether the antialiased filter is bicubic; otherwise it is bilinear.
        flip: whether the result is mirrored left to right.
    """
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    mode = "bicubic" if cubic else "bilinear"
    resized = torch.nn.functional.interpolate(planes, size=out.shape[1:], mode=mode, antialias=True)[0].numpy()
    out[:] = resized[:, :, ::-1] if flip else resized
