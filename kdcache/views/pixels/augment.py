"""The part of augmentation between the renderer and mixing: shift, operations and erasing, as a plan says."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from kdcache.runtime.device import cores
from kdcache.runtime.reused_memory import ReusedMemory
from kdcache.runtime.transfer import array_to_device
from kdcache.views.operations import Operation
from kdcache.views.pixels.erase import erase
from kdcache.views.pixels.fused.launch import runs_on
from kdcache.views.pixels.kernels import batched, pillow
from kdcache.views.pixels.scale import rescale
from kdcache.views.plan import Plan
from kdcache.views.policy import Policy

#: Pieces of a batch for each thread. Several, so that threads end at about the same time; few, so that tiny images
#: share a piece.
_PIECES_PER_THREAD = 4


class Augmenter:
    """Applies plans of one policy to pixels: with Pillow in threads on the CPU, elsewhere with Triton or with torch.

    All give the same pixels. It holds threads: use it as a context manager, or `close` it.
    """

    def __init__(self, policy: Policy, threads: int | None = None) -> None:
        """Open the threads.

        Args:
            policy: policy of the plans.
            threads: number of threads for operations on the CPU; None for as many as the process has cores.
        """
        self.policy = policy
        self.threads = threads or cores()
        red, green, blue = (round(shade) for shade in policy.fill)
        self._fill = (red, green, blue)
        self._nearest = policy.warp_interpolation == "nearest"
        self._memory = ReusedMemory()
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
        """Augment rendered images: shift them, apply the operations in order, then erase boxes.

        `pixels` stays as it is, and is returned itself where the plan changes nothing. The result is float32 if any
        row is erased, because random colours are not whole numbers and may leave 0..255.

        Args:
            pixels: images as rendered, on any device.
            plan: plan of the rows, in the same order.
        """
        pixels = shift(pixels, plan.shift, self.policy.reference_size)
        pixels = self._operate(pixels, plan)
        return erase(pixels, plan.erase, plan.noise, self.policy)

    def _operate(self, pixels: UInt8[Tensor, "b 3 s s"], plan: Plan) -> UInt8[Tensor, "b 3 s s"]:
        if not (plan.op != Operation.IDENTITY).any():
            return pixels
        if pixels.device.type == "cpu":
            return self._operate_in_threads(pixels, plan)
        if runs_on(pixels.device):
            # Late: Triton is not installed everywhere, and takes a second to import.
            from kdcache.views.pixels.fused import operate as fused

            return fused.operate(pixels, plan, self._fill, self._nearest)
        return batched.operate(pixels, plan, self._fill, self._nearest)

    def _operate_in_threads(self, pixels: UInt8[Tensor, "b 3 s s"], plan: Plan) -> UInt8[Tensor, "b 3 s s"]:
        out = self._memory.empty(pixels.shape, pixels.dtype)
        source, target = pixels.numpy(), out.numpy()

        def work(rows: range) -> None:
            for row in rows:
                self._operate_row(source[row], target[row], plan, row)

        step = -(-len(pixels) // (_PIECES_PER_THREAD * self.threads))
        everything = range(len(pixels))
        for piece in [self._pool.submit(work, everything[start : start + step]) for start in everything[::step]]:
            piece.result()
        return out

    def _operate_row(
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
    """Move images down and right; the uncovered part is black. Returns `pixels` itself where no image moves.

    Args:
        pixels: images.
        offset: pixels to move down and right, at the reference size; a negative number moves up or left.
        reference_size: pixels a side to which `offset` refers.
    """
    size = pixels.shape[-1]
    scaled = rescale(offset.astype(np.int64), size, reference_size)
    if not scaled.any():
        return pixels
    places = np.arange(size) - scaled[:, :, None]
    inside = (places >= 0) & (places < size)
    rows, columns = array_to_device(np.clip(places, 0, size - 1), pixels.device).unbind(1)
    kept_rows, kept_columns = array_to_device(inside, pixels.device).unbind(1)
    moved = pixels.gather(2, rows[:, None, :, None].expand(-1, 3, -1, size))
    moved = moved.gather(3, columns[:, None, None, :].expand(-1, 3, size, -1))
    return moved * (kept_rows[:, None, :, None] & kept_columns[:, None, None, :])
