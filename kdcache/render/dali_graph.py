"""DALI's part of the fast renderer: a pipeline that gets boxes and flips as inputs and draws no random numbers.

Nothing here imports torch, so that the many processes of a check need no memory for it.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import nvidia.dali
from jaxtyping import Bool, Int32
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType

VERSION: str = nvidia.dali.__version__

#: Batches that DALI works on while the consumer waits for the first of them.
IN_FLIGHT = 3

_LINEAR, _CUBIC = (filter.value for filter in (DALIInterpType.INTERP_LINEAR, DALIInterpType.INTERP_CUBIC))


class PipelineError(Exception):
    """DALI failed, and its pipeline cannot be used any more. The message is the reason in DALI's report."""


def describe_refusal(error: PipelineError) -> str:
    """Return the clause that tells why DALI cannot decode an image that Pillow can."""
    return f"DALI cannot decode its data ({error}), though Pillow can"


class Graph:
    """One DALI pipeline, which returns batches in the order in which they were launched.

    After a PipelineError it cannot be used any more.
    """

    def __init__(self, size: int, max_batch: int, threads: int, gpu: int | None, *, in_hardware: bool = False) -> None:
        """Build the pipeline.

        Args:
            size: height and width of the results in pixels, on a GPU.
            max_batch: largest number of images in a batch.
            threads: number of DALI's threads on the CPU.
            gpu: number of the GPU that decodes, crops, resizes and flips; None only decodes and crops, on the CPU.
            in_hardware: whether that GPU's decoder of JPEGs, if it has one, decodes those that it can.
        """
        self._on_gpu = gpu is not None
        self._pipeline = Pipeline(
            batch_size=max_batch,
            num_threads=threads,
            device_id=gpu,
            prefetch_queue_depth=IN_FLIGHT,
        )
        #: Image files of each batch in flight, oldest first. DALI reads them where they lie: its own copy of a batch of
        #: 256 would hold the GIL for 5 ms, in which the thread that trains can launch nothing.
        self._fed: deque[list[np.ndarray]] = deque()
        #: Image files of batches that were handed over while the GPU was still at them, and the event that ends that.
        self._landing: deque[tuple[Any, list[np.ndarray]]] = deque()
        with self._pipeline:
            encoded = fn.external_source(name="encoded", ndim=1, dtype=DALIDataType.UINT8, no_copy=True)
            start = fn.external_source(name="start", ndim=1, dtype=DALIDataType.INT32)
            shape = fn.external_source(name="shape", ndim=1, dtype=DALIDataType.INT32)
            if gpu is None:
                self._pipeline.set_outputs(_decode_on_cpu(encoded, start, shape))
            else:
                self._pipeline.set_outputs(_resize_on_gpu(_decode_on_gpu(encoded, start, shape, in_hardware), size))
        self._warm_up()

    def _warm_up(self) -> None:
        """Run the batches that a pipeline prefetches at its first run; after them every run is one batch."""
        pixel = [b"P6 1 1 255\n\0\0\0"]
        box, no = np.array([[0, 0, 1, 1]], np.int32), np.array([False])
        for _ in range(IN_FLIGHT):
            self._feed(pixel, box, no, no)
        self._pipeline.schedule_run()
        for _ in range(IN_FLIGHT):
            self.drop()

    def launch(
        self,
        encoded: Sequence[bytes],
        boxes: Int32[np.ndarray, "b 4"],
        cubic: Bool[np.ndarray, "b"],
        flips: Bool[np.ndarray, "b"],
    ) -> None:
        """Start a batch. Arguments are those of `RenderRequest`; `cubic` and `flips` are obeyed on a GPU only.

        The bytes of `encoded` are not copied. The graph holds them until DALI has decoded them; they must not change.
        """
        self._feed(encoded, boxes, cubic, flips)
        self._pipeline.schedule_run()

    def _feed(
        self,
        encoded: Sequence[bytes],
        boxes: Int32[np.ndarray, "b 4"],
        cubic: Bool[np.ndarray, "b"],
        flips: Bool[np.ndarray, "b"],
    ) -> None:
        files = [np.frombuffer(data, np.uint8) for data in encoded]
        self._fed.append(files)
        self._pipeline.feed_input("encoded", files)
        self._pipeline.feed_input("start", np.ascontiguousarray(boxes[:, :2]))
        self._pipeline.feed_input("shape", np.ascontiguousarray(boxes[:, 2:]))
        if self._on_gpu:
            self._pipeline.feed_input("filter", np.where(cubic, _CUBIC, _LINEAR).astype(np.int32))
            self._pipeline.feed_input("flip", flips.astype(np.int32))

    @contextmanager
    def outputs(self, stream: Any = None) -> Iterator[Any]:
        """Wait for the outputs of the oldest batch in flight, which are valid within the `with` block.

        Args:
            stream: CUDA stream, such as torch's, that waits for the outputs; None waits for them here.

        Raises:
            PipelineError: DALI failed at this batch or another one.
        """
        parts = self._wait(stream)
        try:
            yield parts
        finally:
            self._release(stream)

    def drop(self) -> None:
        """Wait for the oldest batch in flight and drop its outputs. Raises PipelineError."""
        self._wait(None)
        self._release(None)

    def _release(self, stream: Any) -> None:
        """Give the oldest batch's outputs back to DALI, and its image files free as soon as nothing reads them."""
        self._pipeline.release_outputs()
        files = self._fed.popleft()
        if stream is not None:
            # The host has not waited for the GPU; the stream has, so what is recorded in it now comes after decoding.
            self._landing.append((stream.record_event(), files))
        while self._landing and self._landing[0][0].query():
            self._landing.popleft()

    def _wait(self, stream: Any) -> Any:
        """Return the outputs of the oldest batch in flight, valid on `stream` or, without one, on the host."""
        try:
            (pixels,) = self._pipeline.share_outputs(cuda_stream=stream)
        except Exception as error:  # of the type that its C++ exception has in Python
            # DALI tells the position in the batch; the caller knows the name of the image.
            report = re.sub(r" sample #\d+", "", str(error).rpartition("encountered:")[2])
            lines = [line.strip() for line in report.splitlines()]
            raise PipelineError(next(line for line in [*lines, "no reason given"] if line).rstrip(" :.")) from error
        return pixels


def _decode_on_cpu(encoded: DataNode, start: DataNode, shape: DataNode) -> DataNode:
    """Decode the parts of images."""
    return fn.decoders.image_slice(
        encoded,
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=DALIImageType.RGB,
        adjust_orientation=False,
    )


def _decode_on_gpu(encoded: DataNode, start: DataNode, shape: DataNode, in_hardware: bool) -> DataNode:
    """Decode whole images, then cut out the parts.

    nvJPEG before 13.3 has wrong pixels at the edges of a region that it decodes with fancy upsampling.

    The hardware decoder takes the Huffman decoding off the CPU, and may upsample chroma in another way. So all JPEGs
    that it can decode go there, or none: with a share between, an image's pixels would depend on its place in a batch.
    """
    whole = fn.decoders.image(
        encoded,
        device="mixed",
        output_type=DALIImageType.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        hw_decoder_load=1.0 if in_hardware else 0.0,
    )
    return fn.slice(whole, start=start, shape=shape, axis_names="HW")


def _resize_on_gpu(part: DataNode, size: int) -> DataNode:
    """Resize and flip parts of images, and put the channels first."""
    filter = fn.external_source(name="filter", ndim=0, dtype=DALIDataType.INT32)
    flip = fn.external_source(name="flip", ndim=0, dtype=DALIDataType.INT32)
    interpolation = fn.reinterpret(filter, dtype=DALIDataType.INTERP_TYPE)
    resized: Any = fn.resize(part, size=[size, size], interp_type=interpolation, antialias=True)
    # Mean 0 and standard deviation 1 change no value; the operator flips, and puts the channels first.
    return fn.crop_mirror_normalize(
        resized, mirror=flip, mean=[0.0], std=[1.0], dtype=DALIDataType.UINT8, output_layout="CHW"
    )
