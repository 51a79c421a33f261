"""Random erasing (Zhong et al. 2020) as timm does it, obeying a plan: batched torch, the same on every device."""

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8, UInt64
from torch import Tensor

from kdcache.random.philox import Stream
from kdcache.views.pixels.noise import normals, philox
from kdcache.views.pixels.scale import rescale
from kdcache.views.pixels.transfer import to_device
from kdcache.views.policy import Policy

_KEY = (0, int(Stream.NOISE))
_LOW32 = np.uint64(0xFFFFFFFF)


def erase(
    pixels: UInt8[Tensor, "b 3 s s"],
    boxes: Int32[np.ndarray, "b boxes 4"],
    noise: UInt64[np.ndarray, "b"],
    policy: Policy,
) -> UInt8[Tensor, "b 3 s s"] | Float32[Tensor, "b 3 s s"]:
    """The images with their boxes painted over, as float32; where nothing is erased, `pixels` itself.

    timm erases what is normalised, here it is not yet: its 0 is `policy.fill`, its standard normal colour has this
    mean and the deviation `policy.erase_std`, and may leave 0..255. Colours are a function of a row's noise, the
    box's number and, in mode "pixel", the pixel's place in the picture: Philox words, made normal.

    Args:
        boxes, noise: `erase` and `noise` of `Plan`, boxes at the policy's reference size; a later box covers an
            earlier one.
    """
    size = pixels.shape[-1]
    scaled = rescale(boxes.astype(np.int64), size, policy.reference_size)
    there = (scaled[:, :, 2] > scaled[:, :, 0]) & (scaled[:, :, 3] > scaled[:, :, 1])
    if not there.any():
        return pixels
    device = pixels.device
    mean, deviation = (to_device(np.array(c, np.float64), device) for c in (policy.fill, policy.erase_std))
    out = pixels.to(torch.float32).contiguous()
    planes = out.view(*out.shape[:2], -1)
    for number in range(boxes.shape[1]):
        rows = np.flatnonzero(there[:, number])
        if not len(rows):
            continue
        which, place = _inside(scaled[rows, number], size, device)
        row = to_device(rows, device)[which]
        if policy.erase_mode == "const":
            colour = mean.to(torch.float32).expand(len(which), 3)
        else:
            addresses = to_device(_addresses(noise[rows], number), device)
            if policy.erase_mode == "pixel":
                addresses = addresses[which]
                addresses[:, 2] = place
            colour = (mean + deviation * normals(philox(addresses, _KEY))[:, :3]).to(torch.float32)
            if policy.erase_mode == "rand":
                colour = colour[which]
        planes[row, :, place] = colour
    return out


def _addresses(noise: UInt64[np.ndarray, "n"], number: int) -> np.ndarray:
    """Counters of Philox, int64 [n, 4]: noise, low and high; pixel; box."""
    halves = [noise & _LOW32, noise >> np.uint64(32), np.zeros_like(noise), np.full_like(noise, number)]
    return np.stack(halves, axis=1).astype(np.int64)


def _inside(boxes: np.ndarray, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every pixel inside the boxes, int64 [pixels]: its box, and its place in the picture, row by row."""
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    count = height * width
    # The host knows how many there are, so it need not wait to hear it from the device.
    total = int(count.sum())
    numbers = np.stack([count, np.cumsum(count) - count, boxes[:, 0], boxes[:, 1], width], axis=1)
    on_device = to_device(numbers, device)
    which = torch.repeat_interleave(on_device[:, 0], output_size=total)
    _, start, top, left, across = on_device[which].unbind(1)
    within = torch.arange(total, device=device) - start
    return which, (top + within // across) * size + left + within % across
