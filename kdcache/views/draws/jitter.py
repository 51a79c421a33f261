"""Draws the operations of colour jitter: torchvision's ColorJitter."""

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8, UInt64

from kdcache.random.philox import Stream, philox_uint32, unit
from kdcache.views.operations import Operation
from kdcache.views.policy import Policy

#: Operations in the order of the amounts in `Policy.color_jitter`.
_OPERATIONS = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR, Operation.HUE)
#: Draws for each image, of four 32-bit integers each: whether jitter is applied; the order of the four operations;
#: their arguments.
_DRAWS = 3


def draw_jitter(
    policy: Policy, seed: int, view: int | Int64[np.ndarray, "b"], key_hash: UInt64[np.ndarray, "b"]
) -> tuple[UInt8[np.ndarray, "b k"], Float32[np.ndarray, "b k"], Bool[np.ndarray, "b k"]]:
    """Draw columns of `Plan.op`, `Plan.magnitude` and `Plan.op_cubic`, one for each amount x > 0 of the policy.

    Each image has its own random order of the operations. A factor is uniform in [max(0, 1 - x), 1 + x], and the hue
    in [-x, x].
    """
    active = [position for position, amount in enumerate(policy.color_jitter) if amount > 0]
    shape = (len(key_hash), len(active))
    never = np.zeros(shape, np.bool_)
    if not active:
        return np.zeros(shape, np.uint8), np.zeros(shape, np.float32), never
    draws = philox_uint32(seed, Stream.JITTER, key_hash, view, _DRAWS)
    applied = unit(draws[:, 0, :1]) < policy.color_jitter_prob
    order = np.argsort(draws[:, 1, active], axis=1, kind="stable")
    low, high = np.array([_range(position, policy.color_jitter[position]) for position in active]).T
    factor = (low + (high - low) * unit(draws[:, 2, active])).astype(np.float32)
    op = np.where(
        applied, np.array([_OPERATIONS[position] for position in active], np.uint8)[order], np.uint8(Operation.IDENTITY)
    )
    return op, np.where(applied, np.take_along_axis(factor, order, axis=1), np.float32(0)), never


def _range(position: int, amount: float) -> tuple[float, float]:
    """Smallest and largest argument of an operation whose amount in the policy is `amount`."""
    if _OPERATIONS[position] == Operation.HUE:
        return -amount, amount
    return max(0.0, 1.0 - amount), 1.0 + amount
