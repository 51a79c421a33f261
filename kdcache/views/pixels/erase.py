"""Random erasing (Zhong et al. 2020) as timm does it, from a plan: batched, with the same bits on every device."""

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8, UInt64
from torch import Tensor

from kdcache.random.philox import Stream
from kdcache.runtime.transfer import array_to_device
from kdcache.views.pixels.fused.launch import runs_on
from kdcache.views.pixels.noise import normals, philox
from kdcache.views.pixels.scale import rescale
from kdcache.views.policy import Policy

#: Philox key of the colours.
_KEY = (0, int(Stream.NOISE))
_LOW32 = np.uint64(0xFFFFFFFF)


def erase(
    pixels: UInt8[Tensor, "b 3 s s"],
    boxes: Int32[np.ndarray, "b boxes 4"],
    noise: UInt64[np.ndarray, "b"],
    policy: Policy,
) -> UInt8[Tensor, "b 3 s s"] | Float32[Tensor, "b 3 s s"]:
    """Fill the erased boxes with colours; the result is float32, or `pixels` itself where nothing is erased.

    timm erases normalised images, and these are not normalised yet: timm's 0 is `policy.fill` here, and its standard
    normal colour has that mean and the standard deviation `policy.erase_std`, and may leave 0..255. A colour is a
    function of the row's noise, the box's number and, in the mode "pixel", the pixel's place in the image: normal
    numbers from Philox.

    Args:
        pixels: images, in the order of the plan's rows.
        boxes: `Plan.erase`, at the policy's reference size; a later box covers an earlier one.
        noise: `Plan.noise`.
        policy: policy of the plan.
    """
    size = pixels.shape[-1]
    scaled = rescale(boxes.astype(np.int64), size, policy.reference_size)
    there = (scaled[:, :, 2] > scaled[:, :, 0]) & (scaled[:, :, 3] > scaled[:, :, 1])
    if not there.any():
        return pixels
    if runs_on(pixels.device):
        # Late: Triton is not installed everywhere, and takes a second to import.
        from kdcache.views.pixels.fused.erasing import erase_boxes

        return erase_boxes(pixels, scaled.astype(np.int32), noise, policy)
    device = pixels.device
    mean, deviation = (array_to_device(np.array(c, np.float64), device) for c in (policy.fill, policy.erase_std))
    out = pixels.to(torch.float32).contiguous()
    planes = out.view(*out.shape[:2], -1)
    for number in range(boxes.shape[1]):
        rows = np.flatnonzero(there[:, number])
        if not len(rows):
            continue
        which, place = _pixels_inside(scaled[rows, number], size, device)
        row = array_to_device(rows, device)[which]
        if policy.erase_mode == "const":
            colour = mean.to(torch.float32).expand(len(which), 3)
        else:
            addresses = array_to_device(_addresses(noise[rows], number), device)
            if policy.erase_mode == "pixel":
                addresses = addresses[which]
                addresses[:, 2] = place
            colour = (mean + deviation * normals(philox(addresses, _KEY))[:, :3]).to(torch.float32)
            if policy.erase_mode == "rand":
                colour = colour[which]
        planes[row, :, place] = colour
    return out


def _addresses(noise: UInt64[np.ndarray, "n"], number: int) -> np.ndarray:
    """Philox counters, int64 [n, 4]: low half of the noise, high half of it, pixel (0), number of the box."""
    halves = [noise & _LOW32, noise >> np.uint64(32), np.zeros_like(noise), np.full_like(noise, number)]
    return np.stack(halves, axis=1).astype(np.int64)


def _pixels_inside(boxes: np.ndarray, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the pixels inside the boxes, int64 [pixels]: the box of each, and its place, counted row by row."""
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    count = height * width
    # The host computes their number itself: asking the device would mean waiting for it.
    total = int(count.sum())
    numbers = np.stack([count, np.cumsum(count) - count, boxes[:, 0], boxes[:, 1], width], axis=1)
    on_device = array_to_device(numbers, device)
    which = torch.repeat_interleave(on_device[:, 0], output_size=total)
    _, start, top, left, across = on_device[which].unbind(1)
    within = torch.arange(total, device=device) - start
    return which, (top + within // across) * size + left + within % across
