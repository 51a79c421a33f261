"""Relational knowledge distillation: distances between samples, and angles among three of them."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.beyond_logits import FromFeatures
from kdcache.objectives.gathering import gather_rows
from kdcache.objectives.geometry import distances, unit
from kdcache.objectives.precision import at_least_float32, without_autocast
from kdcache.objectives.settings import TermWeight

# Numbers of a tensor of directions or cosines that is held at a time: 64 MB of float32.
_AT_A_TIME = 2**24


def rkd(
    student: Float[Tensor, "b s"],
    teacher: Float[Tensor, "b t"],
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Float[Tensor, ""]:
    """distance_weight * `rkd_distance` + angle_weight * `rkd_angle`; a weight of 0 leaves its part out.

    Park et al. 2019, "Relational Knowledge Distillation" (arXiv:1904.05068), on pooled features, which may differ in
    width. The weights 25 and 50 are those for classification, beside a label loss of weight 1.

    Exact with `embedding` targets, whose features lose no more than their codec does, and with a live teacher; `topk`
    and `full` hold no features. Under DDP, the rows of all ranks (`gather_rows`).
    """
    total = student.new_zeros((), dtype=at_least_float32(student).dtype)
    if distance_weight:
        total = total + distance_weight * rkd_distance(student, teacher)
    if angle_weight:
        total = total + angle_weight * rkd_angle(student, teacher)
    return total


def rkd_distance(student: Float[Tensor, "b s"], teacher: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Mean over all b * b pairs of smooth L1 between distances, each divided by its side's mean over unequal pairs.

    The pairs of a row with itself count as zeros, as in the reference code. Unchanged when either side is moved,
    turned or scaled. 0 for one row. No gradient flows to the teacher.
    """
    with without_autocast(student):
        ours = _relative_distances(at_least_float32(student))
        theirs = _relative_distances(at_least_float32(teacher.detach()))
        return F.smooth_l1_loss(ours, theirs)


def rkd_angle(student: Float[Tensor, "b s"], teacher: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Mean over all b^3 triples of smooth L1 between cosines: of the angle at row j between rows i and k.

    Triples with i = j or k = j have cosine 0 and count, as in the reference code; so do rows that coincide. Unchanged
    when either side is moved, turned or scaled. No gradient flows to the teacher.

    Time grows with b^3 (s + t); memory stays at some 64 MB a tensor, because the angles at a few rows are computed at
    a time, and once more for the gradient.
    """
    with without_autocast(student):
        student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
        rows = len(student)

        def at(corners: Tensor) -> Tensor:
            return F.smooth_l1_loss(_cosines(student, corners), _cosines(teacher, corners), reduction="sum")

        corners = max(1, _AT_A_TIME // (rows * max(rows, student.shape[1], teacher.shape[1])))
        total = student.new_zeros(())
        for some in torch.arange(rows, device=student.device).split(corners):
            total = total + checkpoint(at, some, use_reentrant=False, preserve_rng_state=False)
        return total / rows**3


def _relative_distances(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    apart = distances(rows)
    count = len(rows)
    mean = apart.sum() / max(count * (count - 1), 1)
    return apart / mean.clamp_min(1e-12)


def _cosines(rows: Float[Tensor, "b d"], corners: Int64[Tensor, "v"]) -> Float[Tensor, "v b b"]:
    directions = unit(rows[None, :, :] - rows[corners][:, None, :])
    return directions @ directions.mT


@checked
@dataclass(frozen=True)
class RKD(FromFeatures):
    """kd_weight * RKD + label_weight * label loss, and vanilla distillation beside it if wanted.

    The weights of distances and angles are the paper's for classification, 25 and 50. Time grows with the cube of the
    batch: with thousands of rows set angle_weight to 0, which leaves the distances.

    Attributes:
        distance_weight, angle_weight: weights of distances and of angles, within the term.
    """

    name: Literal["rkd"] = "rkd"
    distance_weight: TermWeight = 25.0
    angle_weight: TermWeight = 50.0

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `rkd` of the rows of all processes."""
        student, teacher = map(gather_rows, self.features_of(inputs))
        return rkd(student, teacher, self.distance_weight, self.angle_weight)
