"""A plan: the arrays that fix the augmentation of some rows of a view, and the pure function that makes them.

Everything downstream obeys a plan and draws nothing. A sample's own draws depend on (policy, seed, view, key) alone,
its box also on its size; a pair's mixing is drawn for the key of its even row.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8, UInt64

from kdcache.random.philox import Stream, philox_uint32, unit
from kdcache.views.draws.crops import draw_boxes, draw_shifts
from kdcache.views.draws.erasing import draw_erasing
from kdcache.views.draws.jitter import draw_jitter
from kdcache.views.draws.mixing import draw_mixing
from kdcache.views.policy import Policy
from kdcache.views.schemes.parsing import parse_scheme
from kdcache.views.schemes.scheme import draw_scheme


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
        op_cubic: whether it interpolates bicubically, where it warps and the policy names no filter for warps.
        erase: erased boxes at the reference size: top, left, bottom, right; all 0 for none.
        noise: what the colours of erased boxes are drawn from.
        weight: of each pair, the share that a row keeps of itself; 1 means that the pair is not mixed.
        cut: of each pair, the swapped box at the reference size: top, left, bottom, right; all 0 with weight < 1
            means mixup.
        crop_pct: None where a crop is resized to the square. A number: what the box shows is resized until its
            shorter side has floor(size / crop_pct) pixels, and the centre is cut out, as timm evaluates.
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
    crop_pct: float | None = None

    def __len__(self) -> int:
        return len(self.flip)

    def shown_box(self) -> Int32[np.ndarray, "b 4"]:
        """The part of each image that is seen: `box`, or, to about a pixel, the square cut out of its centre."""
        if self.crop_pct is None:
            return self.box
        top, left, height, width = self.box.T
        side = np.maximum(np.rint(self.crop_pct * np.minimum(height, width)), 1).astype(np.int32)
        return np.stack([top + (height - side) // 2, left + (width - side) // 2, side, side], axis=1)

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
    weight, cut = draw_mixing(policy, seed, view if isinstance(view, int) else view[even], key_hash[even])
    op, magnitude, op_cubic = _operations(policy, seed, view, key_hash)
    erase, noise = draw_erasing(policy, seed, view, key_hash)
    return Plan(
        box=draw_boxes(policy, seed, view, key_hash, height, width),
        cubic=_cubic(policy, seed, view, key_hash),
        flip=unit(philox_uint32(seed, Stream.FLIP, key_hash, view, 1)[:, 0, 0]) < policy.hflip,
        shift=draw_shifts(policy, seed, view, key_hash),
        op=op,
        magnitude=magnitude,
        op_cubic=op_cubic,
        erase=erase,
        noise=noise,
        weight=weight,
        cut=cut,
        crop_pct=policy.crop_pct if policy.crop == "evaluation" else None,
    )


def _cubic(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "b"], key_hash: UInt64[np.ndarray, "b"]
) -> Bool[np.ndarray, "b"]:
    if policy.interpolation != "random":
        return np.full(len(key_hash), policy.interpolation == "bicubic")
    return unit(philox_uint32(seed, Stream.INTERPOLATION, key_hash, view, 1)[:, 0, 0]) < 0.5


def _operations(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "b"], key_hash: UInt64[np.ndarray, "b"]
) -> tuple[UInt8[np.ndarray, "b k"], Float32[np.ndarray, "b k"], Bool[np.ndarray, "b k"]]:
    """What `auto_augment` asks for, then the colour jitter."""
    parts = [draw_jitter(policy, seed, view, key_hash)]
    scheme = parse_scheme(policy.auto_augment, policy.reference_size)
    if scheme is not None:
        filter = policy.warp_interpolation or policy.interpolation
        parts.insert(0, draw_scheme(scheme, filter, seed, view, key_hash))
    op, magnitude, op_cubic = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    return op, magnitude, op_cubic
