"""Draws the boxes of an image that are erased: timm's RandomErasing (Zhong et al. 2017)."""

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from kdcache.random import exact_math
from kdcache.random.philox import Stream, below, philox_uint32, unit
from kdcache.views.policy import Policy

#: Boxes that are tried for each one that is erased, as timm tries them.
_TRIES = 10
#: Range of the erased area, as a share of the image, and range of height / width; timm's defaults.
_AREA = (0.02, 1 / 3)
_RATIO = (0.3, 1 / 0.3)


def draw_erasing(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "b"], key_hash: UInt64[np.ndarray, "b"]
) -> tuple[Int32[np.ndarray, "b boxes 4"], UInt64[np.ndarray, "b"]]:
    """Draw `Plan.erase`, with `erase_count` boxes a row, and `Plan.noise`.

    An image that is erased gets 1 to `erase_count` boxes, and each covers 0.02 to 1/3 of it, divided by their number.
    A box is the first of ten that is lower and narrower than the image; if none of the ten is, the box stays empty.
    Where the policy never erases, there are no boxes, and the noise is 0.
    """
    rows, boxes = len(key_hash), policy.erase_count
    if policy.erase_prob == 0:
        return np.zeros((rows, 0, 4), np.int32), np.zeros(rows, np.uint64)
    draws = philox_uint32(seed, Stream.ERASE, key_hash, view, 1 + boxes * _TRIES)
    erased = unit(draws[:, 0, 0]) < policy.erase_prob
    count = 1 + below(draws[:, 0, 1], np.full(rows, boxes))
    tries = draws[:, 1:].reshape(rows, boxes, _TRIES, 4)

    size = policy.reference_size
    log_low, log_high = exact_math.log(np.array(_RATIO))
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * unit(tries[..., 0])) * size**2 / count[:, None, None]
    ratio = exact_math.exp(log_low + (log_high - log_low) * unit(tries[..., 1]))
    height = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    width = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (height < size) & (width < size)
    top = below(tries[..., 2], np.maximum(size - height + 1, 1))
    left = below(tries[..., 3], np.maximum(size - width + 1, 1))
    box = np.stack([top, left, top + height, left + width], axis=-1)

    first = fits.argmax(axis=2)[:, :, None, None]
    box = np.take_along_axis(box, first, axis=2)[:, :, 0]
    there = fits.any(axis=2) & erased[:, None] & (np.arange(boxes) < count[:, None])
    there &= (box[..., 2] > box[..., 0]) & (box[..., 3] > box[..., 1])
    noise = philox_uint32(seed, Stream.NOISE, key_hash, view, 1)[:, 0].astype(np.uint64)
    return np.where(there[..., None], box, 0).astype(np.int32), noise[:, 0] | noise[:, 1] << np.uint64(32)
