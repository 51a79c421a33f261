"""Mixing of the rows of a pair, with the same values on every device.

Each step is one elementwise operation with one IEEE rounding, never a fused multiply-add, so that a row's values
depend neither on the batch it lies in nor on how it is computed: batched on a GPU, pair by pair on the CPU, where a
pair stays in the processor's cache.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from torch import Tensor

from kdcache.runtime.reused_memory import ReusedMemory
from kdcache.runtime.transfer import array_to_device
from kdcache.views.pixels.fused.launch import runs_on
from kdcache.views.pixels.normalisation import Normalisation
from kdcache.views.pixels.scale import rescale


def mix(
    pixels: UInt8[Tensor, "b c s s"] | Float32[Tensor, "b c s s"],
    weight: Float32[np.ndarray, "pairs"],
    cut: Int32[np.ndarray, "pairs 4"],
    reference_size: int,
    memory: ReusedMemory | None = None,
) -> Float32[Tensor, "b c s s"]:
    """Mix rows 2j and 2j+1 with each other as the plan says; values in 0..255 stay in that range.

    timm's `pair` mode: a' = w a + (1 - w) b and b' = w b + (1 - w) a (mixup, Zhang et al. 2018), or one box swapped
    (cutmix, Yun et al. 2019). A last row without a partner stays as it is. The host never waits for the device.

    Args:
        pixels: images, uint8 as rendered or float32 where boxes were erased; they are not changed.
        weight: `Plan.weight`.
        cut: `Plan.cut`.
        reference_size: pixels a side to which `cut` refers; boxes are scaled to the size of `pixels` and rounded.
        memory: memory for results on the CPU; None: each has memory of its own.
    """
    cuts = cut[:, 2] > cut[:, 0]
    box = rescale(cut, pixels.shape[-1], reference_size)
    if runs_on(pixels.device):
        # Late: Triton is not installed everywhere, and takes a second to import.
        from kdcache.views.pixels.fused.mixing import mix_images

        return mix_images(pixels, weight, cuts, box)
    if pixels.device.type != "cpu":
        return _mix_batch(pixels, weight, cuts, box)
    out = (memory or ReusedMemory()).empty(pixels.shape, torch.float32)
    _mix_by_pair(pixels, weight, cuts, box, out)
    return out


def mix_and_normalise(
    pixels: UInt8[Tensor, "b c s s"] | Float32[Tensor, "b c s s"],
    weight: Float32[np.ndarray, "pairs"],
    cut: Int32[np.ndarray, "pairs 4"],
    reference_size: int,
    normalisation: Normalisation,
) -> Float[Tensor, "b c s s"]:
    """Mix as `mix` does, and normalise the result for a model; on a GPU with Triton in one launch.

    Args:
        pixels: as for `mix`.
        weight: as for `mix`.
        cut: as for `mix`.
        reference_size: as for `mix`.
        normalisation: mean, deviation, precision and order in memory of the model's images.
    """
    if runs_on(pixels.device):
        from kdcache.views.pixels.fused.mixing import mix_images

        box = rescale(cut, pixels.shape[-1], reference_size)
        return mix_images(pixels, weight, cut[:, 2] > cut[:, 0], box, normalisation)
    return normalisation(mix(pixels, weight, cut, reference_size))


def _mix_by_pair(
    pixels: UInt8[Tensor, "b c s s"] | Float32[Tensor, "b c s s"],
    weight: Float32[np.ndarray, "pairs"],
    cuts: Bool[np.ndarray, "pairs"],
    box: Int32[np.ndarray, "pairs 4"],
    out: Float32[Tensor, "b c s s"],
) -> None:
    """Mix pair by pair into `out`, so that memory larger than the processor's cache is read once and written once."""
    plans = zip(weight.tolist(), (1 - weight).tolist(), cuts.tolist(), box.tolist(), strict=True)
    for pair, (kept, given, cut, (top, left, bottom, right)) in enumerate(plans):
        before, after = pixels[2 * pair : 2 * pair + 2], out[2 * pair : 2 * pair + 2]
        if kept < 1 and not cut:
            before = before.to(torch.float32)
            torch.mul(before, kept, out=after)
            after += (before * given).flip(0)
            continue
        after[:] = before
        if cut:
            after[:, :, top:bottom, left:right] = before[:, :, top:bottom, left:right].flip(0)
    out[2 * len(weight) :] = pixels[2 * len(weight) :]


def _mix_batch(
    pixels: UInt8[Tensor, "b c s s"] | Float32[Tensor, "b c s s"],
    weight: Float32[np.ndarray, "pairs"],
    cuts: Bool[np.ndarray, "pairs"],
    box: Int32[np.ndarray, "pairs 4"],
) -> Float32[Tensor, "b c s s"]:
    """Mix all pairs of a kind at once; the host, which has the plan, finds the pairs of each kind."""
    out = pixels.to(torch.float32, copy=True)
    pairs, device = len(weight), pixels.device
    first, second = out[0 : 2 * pairs : 2], out[1 : 2 * pairs : 2]

    blended = np.flatnonzero(~cuts & (weight < 1))
    if len(blended):
        blend = array_to_device(blended, device)
        share = array_to_device(weight[blended], device).view(-1, 1, 1, 1)
        rest = 1 - share
        a, b = first[blend], second[blend]
        first[blend] = a * share + b * rest
        second[blend] = b * share + a * rest

    cut = np.flatnonzero(cuts)
    if len(cut):
        swap, swapped = array_to_device(cut, device), array_to_device(box[cut], device)
        line = torch.arange(pixels.shape[-1], device=device)
        rows = (swapped[:, 0:1] <= line) & (line < swapped[:, 2:3])
        columns = (swapped[:, 1:2] <= line) & (line < swapped[:, 3:4])
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]
        a, b = first[swap], second[swap]
        first[swap] = torch.where(inside, b, a)
        second[swap] = torch.where(inside, a, b)
    return out
