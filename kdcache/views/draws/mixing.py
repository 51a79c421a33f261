"""Draws how pairs are mixed: weights and cut boxes, as timm's Mixup draws them in its mode `pair`."""

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt32, UInt64

from kdcache.random.philox import Stream, below, philox_uint32, symmetric_beta, unit
from kdcache.views.policy import Policy


def draw_mixing(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "pairs"], even_key_hash: UInt64[np.ndarray, "pairs"]
) -> tuple[Float32[np.ndarray, "pairs"], Int32[np.ndarray, "pairs 4"]]:
    """Draw `Plan.weight` and `Plan.cut`, from the key of each pair's even row."""
    pairs = len(even_key_hash)
    weight, cut = np.ones(pairs, np.float32), np.zeros((pairs, 4), np.int32)
    if not policy.mixes or pairs == 0:
        return weight, cut
    choice, beta, box = (philox_uint32(seed, Stream.MIX, even_key_hash, view, 3)[:, i] for i in range(3))

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
    if policy.mixup_off_view:
        mixed &= view < policy.mixup_off_view
    weight[mixed] = share[mixed]
    swaps = mixed & cuts
    cut[swaps] = boxes[swaps]
    return weight, cut


def _cut_boxes(
    policy: Policy, share: Float64[np.ndarray, "pairs"], draws: UInt32[np.ndarray, "pairs 4"]
) -> Int64[np.ndarray, "pairs 4"]:
    """Boxes to swap: top, left, bottom, right. Their area is about 1 - `share`, unless the policy limits the sides."""
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
