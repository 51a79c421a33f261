"""The fast renderer: one DALI graph that is fed by position and draws no random numbers.

On the GPU the graph decodes, crops, resizes and flips. On the CPU it decodes and crops; its resize would take twice
the time of its decoder there, so threads of ours take over with torch's kernel. Common JPEGs and 8-bit PNGs go to DALI
as they are; every other kind is read by Pillow and handed on as plain RGB, so that it looks alike in both renderers.

One broken image costs DALI its whole pipeline. So bytes are checked before they go in. Should DALI fail all the
same, a new pipeline takes over, what came before the failure is rendered again, and the image to blame is named.
"""

import re
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import nvidia.dali
import torch
from jaxtyping import Bool, Int32, UInt8
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from kdcache.errors import BrokenImageError, DataError, DeviceError, KdcacheError
from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.encoded import UndecodableError, broken_image, check_whole, is_plain, load_part
from kdcache.render.resize import resize_into

# Requests in DALI's hands while the consumer waits for the first of them.
_IN_FLIGHT = 3
# Pieces of a batch for each thread: several, so that threads end together; few, as tiny images share one.
_PIECES = 4

_LINEAR, _CUBIC = (filter.value for filter in (DALIInterpType.INTERP_LINEAR, DALIInterpType.INTERP_CUBIC))


class DaliRenderer(Renderer):
    """Renders with DALI; see `Renderer`."""

    name = "dali"
    decodes_on_gpu = True

    def _open(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kdcache-dali")
        self._graph = self._open_graph()

    def _open_graph(self) -> "Graph":
        gpu = self.device if self.decode == "gpu" else None
        return Graph(self.size, self.max_batch, self.threads, gpu)

    def _land(self, request: RenderRequest) -> UInt8[Tensor, "b 3 s s"]:
        """Wait for the oldest request in flight, this one, and take its pixels out of memory that DALI uses again."""
        if self.decode == "gpu":
            return self._graph.land_on_gpu()
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
                while refused is None and len(flying) < _IN_FLIGHT and (request := next(requests, None)):
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
            if not is_plain(data):
                odd.append(position)
        parts = self._pool.map(partial(_load, request), odd)
        for position, part in zip(odd, parts, strict=True):
            encoded[position] = b"P6 %d %d 255\n" % part.size + part.tobytes()
            boxes[position, :2] = 0
        self._graph.launch(encoded, boxes, request.cubic, request.flips)

    def _find_culprit(
        self, lost: list[RenderRequest], error: "LostError"
    ) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        """Render the requests that DALI's failure took along once more, up to the image to blame; always raises."""
        self._graph = self._open_graph()
        for request in lost:
            # Raises where Pillow cannot decode an image either.
            deque(self._pool.map(partial(_load, request), range(len(request))), maxlen=0)
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

    def _refusal(self, request: RenderRequest, error: "LostError") -> KdcacheError:
        """The error for a request that Pillow renders and DALI does not: it names the image if one is to blame."""
        self._graph = self._open_graph()
        for position, data in enumerate(request.encoded):
            one = slice(position, position + 1)
            try:
                alone = RenderRequest([data], request.boxes[one], cubic=request.cubic[one], flips=request.flips[one])
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
        return f"dali {nvidia.dali.__version__} {self.decode}"

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        del self._graph


def broken_for_dali(name: str, error: "LostError", data: str, decode: str) -> BrokenImageError:
    """The error for the image called `name`, which DALI refuses where it decodes and Pillow shows."""
    if decode != "gpu":
        return broken_image(name, refused_by_dali(error), data, ", or use --renderer pillow")
    return BrokenImageError(
        f"{name} cannot be decoded: {refused_by_dali(error)}. On the CPU DALI has other decoders: use --decode cpu, or "
        f"repair that sample. `kdcache index {data} --check` finds such images as those refuse as well."
    )


def refused_by_dali(error: "LostError") -> str:
    """Why an image that Pillow decodes cannot be shown, as a clause."""
    return f"DALI cannot decode its data ({error}), though Pillow can"


class LostError(Exception):
    """DALI failed, and its whole pipeline with it; the message is what its report says of the reason."""


class Graph:
    """One DALI pipeline: batches are launched and land in the same order. It has broken down after a LostError."""

    def __init__(self, size: int, max_batch: int, threads: int, gpu: torch.device | None) -> None:
        """`gpu` is where everything happens; None decodes and crops on the CPU, and leaves resizing to others."""
        self._gpu = gpu
        self._pipeline = Pipeline(
            batch_size=max_batch,
            num_threads=threads,
            device_id=None if gpu is None else gpu.index or 0,
            prefetch_queue_depth=_IN_FLIGHT,
        )
        with self._pipeline:
            encoded = fn.external_source(name="encoded", ndim=1, dtype=DALIDataType.UINT8)
            start = fn.external_source(name="start", ndim=1, dtype=DALIDataType.INT32)
            shape = fn.external_source(name="shape", ndim=1, dtype=DALIDataType.INT32)
            if gpu is None:
                self._pipeline.set_outputs(_decode_on_cpu(encoded, start, shape))
            else:
                self._pipeline.set_outputs(_resize_on_gpu(_decode_on_gpu(encoded, start, shape), size))
        self._warm_up()

    def _warm_up(self) -> None:
        """A pipeline's first run starts as many as it prefetches; behind them, every run is one batch."""
        pixel = [b"P6 1 1 255\n\0\0\0"]
        box, no = np.array([[0, 0, 1, 1]], np.int32), np.array([False])
        for _ in range(_IN_FLIGHT):
            self._feed(pixel, box, no, no)
        self._pipeline.schedule_run()
        for _ in range(_IN_FLIGHT):
            self.drop()

    def launch(
        self,
        encoded: Sequence[bytes],
        boxes: Int32[np.ndarray, "b 4"],
        cubic: Bool[np.ndarray, "b"],
        flips: Bool[np.ndarray, "b"],
    ) -> None:
        self._feed(encoded, boxes, cubic, flips)
        self._pipeline.schedule_run()

    def _feed(
        self,
        encoded: Sequence[bytes],
        boxes: Int32[np.ndarray, "b 4"],
        cubic: Bool[np.ndarray, "b"],
        flips: Bool[np.ndarray, "b"],
    ) -> None:
        self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in encoded])
        self._pipeline.feed_input("start", np.ascontiguousarray(boxes[:, :2]))
        self._pipeline.feed_input("shape", np.ascontiguousarray(boxes[:, 2:]))
        if self._gpu is not None:
            self._pipeline.feed_input("filter", np.where(cubic, _CUBIC, _LINEAR).astype(np.int32))
            self._pipeline.feed_input("flip", flips.astype(np.int32))

    @contextmanager
    def landed(self) -> Iterator[Any]:
        """The decoded parts of the oldest batch in flight, when it is done, for as long as the block lasts.

        Raises LostError.
        """
        parts = self._wait(None)
        try:
            yield parts
        finally:
            self._pipeline.release_outputs()

    def land_on_gpu(self) -> UInt8[Tensor, "b 3 s s"]:
        """The oldest batch in flight, copied in the order of torch's current stream, which alone waits for it.

        Raises LostError.
        """
        pixels = self._wait(torch.cuda.current_stream(self._gpu))
        copy = from_dlpack(pixels.as_tensor()).clone()
        self._pipeline.release_outputs()
        return copy

    def drop(self) -> None:
        """Wait for the oldest batch in flight and forget it. Raises LostError."""
        self._wait(None)
        self._pipeline.release_outputs()

    def _wait(self, stream: torch.cuda.Stream | None) -> Any:
        """What DALI made of the oldest batch in flight; valid on `stream`, or for the host."""
        try:
            (pixels,) = self._pipeline.share_outputs(cuda_stream=stream)
        except Exception as error:  # of the type that its C++ exception has in Python
            # Which sample of the batch it was is better told by whoever made the batch.
            report = re.sub(r" sample #\d+", "", str(error).rpartition("encountered:")[2])
            lines = [line.strip() for line in report.splitlines()]
            raise LostError(next(line for line in [*lines, "no reason given"] if line).rstrip(" :.")) from error
        return pixels


def _decode_on_cpu(encoded: DataNode, start: DataNode, shape: DataNode) -> DataNode:
    return fn.decoders.image_slice(
        encoded,
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=DALIImageType.RGB,
        adjust_orientation=False,
    )


def _decode_on_gpu(encoded: DataNode, start: DataNode, shape: DataNode) -> DataNode:
    """Decode whole, then slice: nvJPEG before 13.3 is wrong at the edges of a region with fancy upsampling.

    No image goes to the hardware decoder: which ones do depends on the batch, and its upsampling differs.
    """
    whole = fn.decoders.image(
        encoded,
        device="mixed",
        output_type=DALIImageType.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        hw_decoder_load=0.0,
    )
    return fn.slice(whole, start=start, shape=shape, axis_names="HW")


def _resize_on_gpu(part: DataNode, size: int) -> DataNode:
    filter = fn.external_source(name="filter", ndim=0, dtype=DALIDataType.INT32)
    flip = fn.external_source(name="flip", ndim=0, dtype=DALIDataType.INT32)
    interpolation = fn.reinterpret(filter, dtype=DALIDataType.INTERP_TYPE)
    resized: Any = fn.resize(part, size=[size, size], interp_type=interpolation, antialias=True)
    # Mean 0 and deviation 1 change no value: the operator flips, and puts the channels first.
    return fn.crop_mirror_normalize(
        resized, mirror=flip, mean=[0.0], std=[1.0], dtype=DALIDataType.UINT8, output_layout="CHW"
    )


def _resize(request: RenderRequest, parts: Any, pixels: UInt8[np.ndarray, "b 3 s s"], positions: range) -> None:
    for position in positions:
        resize_into(
            pixels[position],
            np.asarray(parts[position]),
            bool(request.cubic[position]),
            bool(request.flips[position]),
        )


def _load(request: RenderRequest, position: int) -> Image.Image:
    name = partial(request.describe, position)
    return load_part(request.encoded[position], request.boxes[position], name, request.data)
