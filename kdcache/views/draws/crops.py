"""Draws the part of an image that a view shows: crop boxes, and the shift of a padded crop."""

import numpy as np
from jaxtyping import Int32, Int64, UInt32, UInt64

from kdcache.random import exact_math
from kdcache.random.philox import Stream, below, philox_uint32, unit
from kdcache.views.policy import Policy

#: Boxes that are tried for each image, as timm tries them.
_TRIES = 10


def draw_boxes(
    policy: Policy,
    seed: int,
    view: int | Int64[np.ndarray, "b"],
    key_hash: UInt64[np.ndarray, "b"],
    height: Int64[np.ndarray, "b"],
    width: Int64[np.ndarray, "b"],
) -> Int32[np.ndarray, "b 4"]:
    """Draw crop boxes: top, left, height and width in source pixels; the whole image for the crop "evaluation"."""
    if policy.crop == "resized":
        return _resized_boxes(policy, philox_uint32(seed, Stream.CROP, key_hash, view, _TRIES), height, width)
    if policy.crop == "evaluation":
        zero = np.zeros_like(height)
        return np.stack([zero, zero, height, width], axis=1).astype(np.int32)
    side = np.maximum(np.rint(policy.crop_pct * np.minimum(height, width)).astype(np.int64), 1)
    return np.stack([(height - side) // 2, (width - side) // 2, side, side], axis=1).astype(np.int32)


def draw_shifts(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "b"], key_hash: UInt64[np.ndarray, "b"]
) -> Int32[np.ndarray, "b 2"]:
    """Draw how far each image moves down and right, in pixels at the reference size, uniform in -pad..pad.

    This is torchvision's RandomCrop(size, padding=pad).
    """
    if policy.pad == 0:
        return np.zeros((len(key_hash), 2), np.int32)
    draws = philox_uint32(seed, Stream.SHIFT, key_hash, view, 1)[:, 0, :2]
    return (below(draws, np.full(draws.shape, 2 * policy.pad + 1)) - policy.pad).astype(np.int32)


def _resized_boxes(
    policy: Policy,
    draws: UInt32[np.ndarray, "b tries 4"],
    height: Int64[np.ndarray, "b"],
    width: Int64[np.ndarray, "b"],
) -> Int32[np.ndarray, "b 4"]:
    """Choose boxes as timm's RandomResizedCropAndInterpolation does: the first of ten that fits, else a central one.

    All ten are computed, so that every image takes the same number of draws.
    """
    scale_low, scale_high = policy.crop_scale
    ratio_low, ratio_high = policy.crop_ratio
    log_low, log_high = exact_math.log(np.array([ratio_low, ratio_high]))
    image_height, image_width = height[:, None], width[:, None]
    area = (scale_low + (scale_high - scale_low) * unit(draws[:, :, 0])) * (image_height * image_width)
    ratio = exact_math.exp(log_low + (log_high - log_low) * unit(draws[:, :, 1]))
    box_width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    box_height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (box_width > 0) & (box_width <= image_width) & (box_height > 0) & (box_height <= image_height)
    first = fits.argmax(axis=1)[:, None]
    found = fits.any(axis=1)

    central_height, central_width = _central_size(ratio_low, ratio_high, height, width)
    box_height = np.where(found, np.take_along_axis(box_height, first, 1)[:, 0], central_height)
    box_width = np.where(found, np.take_along_axis(box_width, first, 1)[:, 0], central_width)
    free_height, free_width = height - box_height, width - box_width
    top_bits = np.take_along_axis(draws[:, :, 2], first, 1)[:, 0]
    left_bits = np.take_along_axis(draws[:, :, 3], first, 1)[:, 0]
    top = np.where(found, below(top_bits, free_height + 1), free_height // 2)
    left = np.where(found, below(left_bits, free_width + 1), free_width // 2)
    return np.stack([top, left, box_height, box_width], axis=1).astype(np.int32)


def _central_size(
    ratio_low: float, ratio_high: float, height: Int64[np.ndarray, "b"], width: Int64[np.ndarray, "b"]
) -> tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"]]:
    """Height and width of the largest central crop whose aspect ratio the policy allows."""
    ratio = width / height
    tall, wide = ratio < ratio_low, ratio > ratio_high
    central_height = np.where(tall, np.rint(width / ratio_low).astype(np.int64), height)
    central_width = np.where(wide, np.rint(height * ratio_high).astype(np.int64), width)
    # Rounding can pass the image by a pixel where an extreme ratio meets a side of few pixels.
    return np.clip(central_height, 1, height), np.clip(central_width, 1, width)
