"""A plan: the arrays that fix the augmentation of some rows of a view, and the pure function that makes them.

Everything downstream obeys a plan and draws nothing. A sample's own draws depend on (policy, seed, view, key) alone,
its box also on its size; a pair's mixing is drawn for the key of its even row.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8, UInt32, UInt64

from kdcache.views import exactmath
from kdcache.views.policy import Policy
from kdcache.views.random import Stream, below, symmetric_beta, unit, words

_TRIES = 10


@dataclass(frozen=True)
class Plan:
    """The augmentation of b consecutive rows of a view, the first of them an even one.

    Attributes:
        box: crop in source pixels: top, left, height, width.
        cubic: whether it is resized with a bicubic filter, else bilinear.
        flip: whether the crop is mirrored left to right.
        shift: then moved down and right, in pixels at the reference size; what comes in is black.
        op: `Operation` codes, applied in order.
        magnitude: the argument of each operation, as `Operation` says.
        op_cubic: whether it interpolates bicubically, where it warps.
        erase: erased boxes at the reference size: top, left, bottom, right; all 0 for none.
        noise: what the colours of erased boxes are drawn from.
        weight: of each pair, the share that a row keeps of itself; 1 means that the pair is not mixed.
        cut: of each pair, the swapped box at the reference size: top, left, bottom, right; all 0 with weight < 1
            means mixup.
    """

    box: Int32[np.ndarray, "b 4"]
    cubic: Bool[np.ndarray, "b"]
    flip: Bool[np.ndarray, "b"]
    shift: Int32[np.ndarray, "b 2"]
    op: UInt8[np.ndarray, "b k"]
    magnitude: Float32[np.ndarray, "b k"]
    op_cubic: Bool[np.ndarray, "b k"]
    erase: Int32[np.ndarray, "b boxes 4"]
    noise: UInt64[np.ndarray, "b"]
    weight: Float32[np.ndarray, "pairs"]
    cut: Int32[np.ndarray, "pairs 4"]

    def __len__(self) -> int:
        return len(self.flip)

    def row_weight(self) -> Float32[np.ndarray, "b"]:
        """Each row's share of itself: its pair's weight, 1 for an odd last row."""
        weight = np.ones(len(self), np.float32)
        paired = 2 * len(self.weight)
        weight[:paired] = np.repeat(self.weight, 2)
        return weight


def make_plan(
    policy: Policy,
    seed: int,
    view: int | Int64[np.ndarray, "b"],
    key_hash: UInt64[np.ndarray, "b"],
    height: Int64[np.ndarray, "b"],
    width: Int64[np.ndarray, "b"],
) -> Plan:
    """The plan of some rows, given pair by pair: each even row of a view is followed by its partner.

    An odd number of rows leaves the last one unmixed: it has no partner.

    Args:
        seed: of the view set, 0 <= seed < 2**32.
        view: of all rows, or of each; both rows of a pair are of one view.
        key_hash: 64-bit hashes of the samples' keys.
        height, width: the images' sizes in pixels, as stored (EXIF orientation ignored).
    """
    rows = len(key_hash)
    even = slice(0, rows // 2 * 2, 2)
    weight, cut = _mixing(policy, seed, view if isinstance(view, int) else view[even], key_hash[even])
    return Plan(
        box=_crop_boxes(policy, words(seed, Stream.CROP, key_hash, view, _TRIES), height, width),
        cubic=np.full(rows, policy.interpolation == "bicubic"),
        flip=unit(words(seed, Stream.FLIP, key_hash, view, 1)[:, 0, 0]) < policy.hflip,
        shift=np.zeros((rows, 2), np.int32),
        op=np.zeros((rows, 0), np.uint8),
        magnitude=np.zeros((rows, 0), np.float32),
        op_cubic=np.zeros((rows, 0), np.bool_),
        erase=np.zeros((rows, 0, 4), np.int32),
        noise=np.zeros(rows, np.uint64),
        weight=weight,
        cut=cut,
    )


def _crop_boxes(
    policy: Policy,
    draws: UInt32[np.ndarray, "b tries 4"],
    height: Int64[np.ndarray, "b"],
    width: Int64[np.ndarray, "b"],
) -> Int32[np.ndarray, "b 4"]:
    """timm's RandomResizedCrop with its ten tries drawn ahead: the first that fits, else its central crop."""
    scale_low, scale_high = policy.crop_scale
    ratio_low, ratio_high = policy.crop_ratio
    log_low, log_high = exactmath.log(np.array([ratio_low, ratio_high]))
    image_height, image_width = height[:, None], width[:, None]
    area = (scale_low + (scale_high - scale_low) * unit(draws[:, :, 0])) * (image_height * image_width)
    ratio = exactmath.exp(log_low + (log_high - log_low) * unit(draws[:, :, 1]))
    box_width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    box_height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (box_width > 0) & (box_width <= image_width) & (box_height > 0) & (box_height <= image_height)
    first = fits.argmax(axis=1)[:, None]
    found = fits.any(axis=1)

    central_height, central_width = _central_size(ratio_low, ratio_high, height, width)
    box_height = np.where(found, np.take_along_axis(box_height, first, 1)[:, 0], central_height)
    box_width = np.where(found, np.take_along_axis(box_width, first, 1)[:, 0], central_width)
    free_height, free_width = height - box_height, width - box_width
    top_word = np.take_along_axis(draws[:, :, 2], first, 1)[:, 0]
    left_word = np.take_along_axis(draws[:, :, 3], first, 1)[:, 0]
    top = np.where(found, below(top_word, free_height + 1), free_height // 2)
    left = np.where(found, below(left_word, free_width + 1), free_width // 2)
    return np.stack([top, left, box_height, box_width], axis=1).astype(np.int32)


def _central_size(
    ratio_low: float, ratio_high: float, height: Int64[np.ndarray, "b"], width: Int64[np.ndarray, "b"]
) -> tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"]]:
    """Height and width of the largest central crop whose ratio the policy allows."""
    ratio = width / height
    tall, wide = ratio < ratio_low, ratio > ratio_high
    central_height = np.where(tall, np.rint(width / ratio_low).astype(np.int64), height)
    central_width = np.where(wide, np.rint(height * ratio_high).astype(np.int64), width)
    # Rounding can pass the image by a pixel where an extreme ratio meets a side of few pixels.
    return np.clip(central_height, 1, height), np.clip(central_width, 1, width)


def _mixing(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "pairs"], even_key_hash: UInt64[np.ndarray, "pairs"]
) -> tuple[Float32[np.ndarray, "pairs"], Int32[np.ndarray, "pairs 4"]]:
    """Weight and cut box of each pair, as timm's Mixup in `pair` mode draws them, at the reference size."""
    pairs = len(even_key_hash)
    weight, cut = np.ones(pairs, np.float32), np.zeros((pairs, 4), np.int32)
    if not policy.mixes or pairs == 0:
        return weight, cut
    choice, beta, box = (words(seed, Stream.MIX, even_key_hash, view, 3)[:, i] for i in range(3))

    can_cut = policy.cutmix > 0 or policy.cutmix_minmax is not None
    either = can_cut and policy.mixup > 0
    cuts = unit(choice[:, 1]) < policy.switch_prob if either else np.full(pairs, can_cut)
    # timm takes alpha = 1 for cutmix when the box comes from min and max.
    cut_alpha = 1.0 if policy.cutmix_minmax is not None else policy.cutmix
    share = symmetric_beta(beta, np.where(cuts, cut_alpha or 1.0, policy.mixup or 1.0)).astype(np.float32)

    boxes = _cut_boxes(policy, share.astype(np.float64), box)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    share = np.where(cuts, (1.0 - area / policy.reference_size**2).astype(np.float32), share)
    mixed = (unit(choice[:, 0]) < policy.mix_prob) & (share < 1)
    weight[mixed] = share[mixed]
    swaps = mixed & cuts
    cut[swaps] = boxes[swaps]
    return weight, cut


def _cut_boxes(
    policy: Policy, share: Float64[np.ndarray, "pairs"], draws: UInt32[np.ndarray, "pairs 4"]
) -> Int64[np.ndarray, "pairs 4"]:
    size = policy.reference_size
    pairs = len(share)
    if policy.cutmix_minmax is not None:
        low, high = (int(size * share) for share in policy.cutmix_minmax)
        sides = low + below(draws[:, 0:2], np.full((pairs, 2), max(high - low, 1)))
        start = below(draws[:, 2:4], size - sides + 1)
        return np.concatenate([start, start + sides], axis=1)
    side = (size * np.sqrt(1.0 - share)).astype(np.int64)[:, None]
    centre = below(draws[:, 0:2], np.full((pairs, 2), size))
    start = np.clip(centre - side // 2, 0, size)
    stop = np.clip(centre + (side + 1) // 2, 0, size)
    return np.concatenate([start, stop], axis=1)
