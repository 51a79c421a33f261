"""DALI's part of the fast renderer: a graph that is fed by position and draws no random numbers.

Nothing here needs torch, so that the many processes of a check do without it.
"""

import re
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

IN_FLIGHT = 3
"""Batches in DALI's hands while the consumer waits for the first of them."""

_LINEAR, _CUBIC = (filter.value for filter in (DALIInterpType.INTERP_LINEAR, DALIInterpType.INTERP_CUBIC))


class LostError(Exception):
    """DALI failed, and its whole pipeline with it; the message is what its report says of the reason."""


def refused_by_dali(error: LostError) -> str:
    """Why an image that Pillow decodes cannot be shown, as a clause."""
    return f"DALI cannot decode its data ({error}), though Pillow can"


class Graph:
    """One DALI pipeline: batches are launched and land in the same order. It has broken down after a LostError."""

    def __init__(self, size: int, max_batch: int, threads: int, gpu: int | None) -> None:
        """`gpu` is the number of the one where everything happens; None decodes and crops on the CPU, no more."""
        self._on_gpu = gpu is not None
        self._pipeline = Pipeline(
            batch_size=max_batch,
            num_threads=threads,
            device_id=gpu,
            prefetch_queue_depth=IN_FLIGHT,
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
        if self._on_gpu:
            self._pipeline.feed_input("filter", np.where(cubic, _CUBIC, _LINEAR).astype(np.int32))
            self._pipeline.feed_input("flip", flips.astype(np.int32))

    @contextmanager
    def landed(self, stream: Any = None) -> Iterator[Any]:
        """What became of the oldest batch in flight, for as long as the block lasts.

        stream: a CUDA stream, such as torch's, that alone waits for it; None waits here until it is done.

        Raises LostError.
        """
        parts = self._wait(stream)
        try:
            yield parts
        finally:
            self._pipeline.release_outputs()

    def drop(self) -> None:
        """Wait for the oldest batch in flight and forget it. Raises LostError."""
        self._wait(None)
        self._pipeline.release_outputs()

    def _wait(self, stream: Any) -> Any:
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
