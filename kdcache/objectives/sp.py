"""Similarity-preserving distillation: which samples of a batch excite the network alike."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.beyond_logits import FromFeatures
from kdcache.objectives.gathering import gather_rows
from kdcache.objectives.geometry import unit
from kdcache.objectives.precision import at_least_float32, without_autocast
from kdcache.objectives.settings import KdWeight


def sp(student: Float[Tensor, "b s"], teacher: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
    """1 / b^2 * ||G_s - G_t||^2 (Frobenius), G = F F^T with each row at length 1.

    Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation" (arXiv:1907.09682). The usual weight is 3,000.
    Rows are divided by their Euclidean length; some public code divides by the sum of magnitudes.

    Args:
        student, teacher: features, which may differ in width: pooled, or feature maps flattened as in the paper. No
            gradient flows to the teacher.

    Exact with `embedding` targets, whose features lose no more than their codec does, and with a live teacher; `topk`
    and `full` hold no features. Under DDP, the rows of all ranks (`gather_rows`).
    """
    with without_autocast(student):
        ours, theirs = at_least_float32(student), at_least_float32(teacher.detach())
        return (unit(ours @ ours.T) - unit(theirs @ theirs.T)).square().mean()


@checked
@dataclass(frozen=True)
class SP(FromFeatures):
    """kd_weight * SP + label_weight * label loss, and vanilla distillation beside it if wanted.

    The weight is the paper's.
    """

    name: Literal["sp"] = "sp"
    kd_weight: KdWeight = 3_000.0

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `sp` of the rows of all processes."""
        return sp(*map(gather_rows, self.features_of(inputs)))
