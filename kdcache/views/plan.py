"""A plan: the arrays that fix the augmentation of some rows of a view, and the pure function that computes them.

Whatever comes after obeys a plan and draws no random numbers. A sample's own draws depend on (policy, seed, view, key)
alone, its box also on its size; the mixing of a pair is drawn for the key of its even row.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8, UInt64

from kdcache.random.philox import Stream, philox_uint32, unit
from kdcache.views.draws.crops import draw_boxes, draw_shifts
from kdcache.views.draws.erasing import draw_erasing
from kdcache.views.draws.jitter import draw_jitter
from kdcache.views.draws.mixing import draw_mixing
from kdcache.views.operations import Operation
from kdcache.views.policy import Policy
from kdcache.views.schemes.parsing import parse_scheme
from kdcache.views.schemes.scheme import draw_scheme


@dataclass(frozen=True)
class Plan:
    """The augmentation of b rows of a view, pair by pair, so that the first is an even one.

    Attributes:
        box: crop of each image in source pixels: top, left, height, width.
        cubic: whether the crop is resized with a bicubic filter; otherwise with a bilinear one.
        flip: whether the crop is mirrored left to right.
        shift: pixels, at the reference size, that the resized crop is moved down and right; the uncovered part is
            black.
        op: codes of the operations (`Operation`) in the order in which they are applied.
        magnitude: argument of each operation, in the unit that its row in `kdcache.views.operations` names.
        op_cubic: whether an operation that warps interpolates bicubically, where the policy sets no filter for warps.
        erase: erased boxes at the reference size: top, left, bottom, right; all 0 for none.
        noise: random bits from which the colours of a row's erased boxes follow.
        weight: share of itself that each row of a pair keeps; 1 means that the pair is not mixed.
        cut: box that the rows of a pair swap, at the reference size: top, left, bottom, right; all 0 together with
            weight < 1 means mixup.
        crop_pct: None where the crop is resized to the square. Otherwise the crop is resized until its shorter side
            has floor(size / crop_pct) pixels, and the central square is cut out, as in timm's evaluation transform.
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
        """Return the part of each image that is seen, in source pixels, to about a pixel: top, left, height, width."""
        if self.crop_pct is None:
            return self.box
        top, left, height, width = self.box.T
        side = np.maximum(np.rint(self.crop_pct * np.minimum(height, width)), 1).astype(np.int32)
        return np.stack([top + (height - side) // 2, left + (width - side) // 2, side, side], axis=1)

    def row_weight(self) -> Float32[np.ndarray, "b"]:
        """Return the share of itself that each row keeps: the weight of its pair, and 1 for an odd last row."""
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
    """Compute the plan of some rows, given pair by pair: each even row of a view is followed by its partner.

    An odd number of rows leaves the last one unmixed, because it has no partner.

    Args:
        policy: distribution of the augmentations.
        seed: seed of the view set, 0 <= seed < 2**32.
        view: view of all rows, or of each; both rows of a pair belong to one view.
        key_hash: 64-bit hashes of the samples' keys.
        height, width: sizes of the images in pixels, as stored (EXIF orientation is ignored).
    """
    rows = len(key_hash)
    even = slice(0, rows // 2 * 2, 2)
    weight, cut = draw_mixing(policy, seed, view if isinstance(view, int) else view[even], key_hash[even])
    op, magnitude, op_cubic = _draw_operations(policy, seed, view, key_hash)
    erase, noise = draw_erasing(policy, seed, view, key_hash)
    return Plan(
        box=draw_boxes(policy, seed, view, key_hash, height, width),
        cubic=_draw_filters(policy, seed, view, key_hash),
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


def _draw_filters(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "b"], key_hash: UInt64[np.ndarray, "b"]
) -> Bool[np.ndarray, "b"]:
    """Draw `Plan.cubic`."""
    if policy.interpolation != "random":
        return np.full(len(key_hash), policy.interpolation == "bicubic")
    return unit(philox_uint32(seed, Stream.INTERPOLATION, key_hash, view, 1)[:, 0, 0]) < 0.5


def _draw_operations(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "b"], key_hash: UInt64[np.ndarray, "b"]
) -> tuple[UInt8[np.ndarray, "b k"], Float32[np.ndarray, "b k"], Bool[np.ndarray, "b k"]]:
    """Draw `Plan.op`, `Plan.magnitude` and `Plan.op_cubic`: the operations of `auto_augment`, then colour jitter."""
    parts = [draw_jitter(policy, seed, view, key_hash)]
    scheme = parse_scheme(policy.auto_augment, policy.reference_size)
    if scheme is not None:
        filter = policy.warp_interpolation or policy.interpolation
        parts.insert(0, draw_scheme(scheme, filter, seed, view, key_hash))
    op, magnitude, op_cubic = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    return op, magnitude, op_cubic


def describe_crop(plan: Plan, row: int) -> str:
    """Return the part of the source image that a row shows: "crop 210 x 180 at row 12, column 40, flipped"."""
    top, left, height, width = plan.shown_box()[row].tolist()
    about = "" if plan.crop_pct is None else "about "
    flipped = ", flipped" if plan.flip[row] else ""
    return f"crop {about}{height} x {width} at row {top}, column {left}{flipped}"


def describe_changes(plan: Plan, row: int) -> tuple[str, ...]:
    """Return what is done to a row's crop, in order: shift, operations with their arguments, erased boxes."""
    down, right = plan.shift[row].tolist()
    ways = (down, "down", "up"), (right, "right", "left")
    moves = [f"{abs(by)} {positive if by > 0 else negative}" for by, positive, negative in ways if by]
    texts = [f"moved {' and '.join(moves)} pixels"] if moves else []
    texts += [
        Operation(op).spec.describe(magnitude)
        for op, magnitude in zip(plan.op[row].tolist(), plan.magnitude[row].tolist(), strict=True)
        if op != Operation.IDENTITY
    ]
    texts += [
        f"erase {bottom - top} x {right - left} at row {top}, column {left}"
        for top, left, bottom, right in plan.erase[row].tolist()
        if bottom > top
    ]
    return tuple(texts)


def describe_mixing(plan: Plan, pair: int) -> str:
    """Return how the rows of a pair are mixed; both rows keep the same share of themselves."""
    weight, (top, left, bottom, right) = float(plan.weight[pair]), plan.cut[pair].tolist()
    if bottom > top:
        return f"cutmix: {bottom - top} x {right - left} swapped at row {top}, column {left}; keeps {weight:.1%}"
    return f"mixup: keeps {weight:.1%}" if weight < 1 else "not mixed"
