"""Everything between the renderer and mixing: shift, operations, erasing, as a plan says."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from kdcache.runtime.device import cores
from kdcache.views.operations import Operation
from kdcache.views.pixels.erase import erase
from kdcache.views.pixels.kernels import batched, pillow
from kdcache.views.pixels.scale import rescale
from kdcache.views.pixels.transfer import to_device
from kdcache.views.plan import Plan
from kdcache.views.policy import Policy

# Pieces of a batch for each thread: several, so that threads end together; few, as tiny images share one.
_PIECES = 4


class Augmenter:
    """Obeys the plans of one policy, on whatever device the pixels are: Pillow in threads on the CPU, else torch.

    Both give the same pixels. Use it as a context manager, or `close` it: it holds threads.
    """

    def __init__(self, policy: Policy, threads: int | None = None) -> None:
        """`threads`: for operations on the CPU; as many as this process has cores unless told."""
        self.policy = policy
        self.threads = threads or cores()
        red, green, blue = (round(shade) for shade in policy.fill)
        self._fill = (red, green, blue)
        self._nearest = policy.warp_interpolation == "nearest"
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="kdcache-augment")

    def __enter__(self) -> "Augmenter":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; calling it again does nothing."""
        self._pool.shutdown(cancel_futures=True)

    def apply(
        self, pixels: UInt8[Tensor, "b 3 s s"], plan: Plan
    ) -> UInt8[Tensor, "b 3 s s"] | Float32[Tensor, "b 3 s s"]:
        """The rows of `plan` as rendered, augmented: shifted, then operated on in order, then erased.

        `pixels` stays as it is, and is itself returned where the plan asks for nothing. The result is float32 where
        any of the rows is erased: random colours are not whole numbers and may leave 0..255.
        """
        pixels = shift(pixels, plan.shift, self.policy.reference_size)
        pixels = self._operate(pixels, plan)
        return erase(pixels, plan.erase, plan.noise, self.policy)

    def _operate(self, pixels: UInt8[Tensor, "b 3 s s"], plan: Plan) -> UInt8[Tensor, "b 3 s s"]:
        if not (plan.op != Operation.IDENTITY).any():
            return pixels
        if pixels.device.type == "cpu":
            return self._in_threads(pixels, plan)
        return batched.operate(pixels, plan, self._fill, self._nearest)

    def _in_threads(self, pixels: UInt8[Tensor, "b 3 s s"], plan: Plan) -> UInt8[Tensor, "b 3 s s"]:
        out = torch.empty_like(pixels, memory_format=torch.contiguous_format)
        source, target = pixels.numpy(), out.numpy()

        def work(rows: range) -> None:
            for row in rows:
                self._one(source[row], target[row], plan, row)

        step = -(-len(pixels) // (_PIECES * self.threads))
        everything = range(len(pixels))
        for piece in [self._pool.submit(work, everything[start : start + step]) for start in everything[::step]]:
            piece.result()
        return out

    def _one(
        self, source: UInt8[np.ndarray, "3 s s"], target: UInt8[np.ndarray, "3 s s"], plan: Plan, row: int
    ) -> None:
        columns = np.flatnonzero(plan.op[row])
        if not len(columns):
            target[:] = source
            return
        image = pillow.from_planes(source)
        for column in columns:
            image = pillow.operate(
                image,
                int(plan.op[row, column]),
                float(plan.magnitude[row, column]),
                bool(plan.op_cubic[row, column]),
                self._fill,
                self._nearest,
            )
        pillow.into_planes(image, target)


def shift(
    pixels: UInt8[Tensor, "b 3 s s"], offset: Int32[np.ndarray, "b 2"], reference_size: int
) -> UInt8[Tensor, "b 3 s s"]:
    """The images moved down and right; what comes in is black. `pixels` itself where none moves.

    Args:
        offset: down and right, at the reference size; negative moves up and left.
    """
    size = pixels.shape[-1]
    scaled = rescale(offset.astype(np.int64), size, reference_size)
    if not scaled.any():
        return pixels
    places = np.arange(size) - scaled[:, :, None]
    inside = (places >= 0) & (places < size)
    rows, columns = to_device(np.clip(places, 0, size - 1), pixels.device).unbind(1)
    kept_rows, kept_columns = to_device(inside, pixels.device).unbind(1)
    moved = pixels.gather(2, rows[:, None, :, None].expand(-1, 3, -1, size))
    moved = moved.gather(3, columns[:, None, None, :].expand(-1, 3, size, -1))
    return moved * (kept_rows[:, None, :, None] & kept_columns[:, None, None, :])
