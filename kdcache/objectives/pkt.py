"""Probabilistic knowledge transfer: how likely each sample takes each other for its neighbour."""

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

_FLOOR = 1e-7


def pkt(student: Float[Tensor, "b s"], teacher: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Mean over all b * b pairs of p_t log((p_t + e) / (p_s + e)), with p = (cos + 1) / 2 over its row's sum, e = 1e-7.

    Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer" (arXiv:1803.10837),
    with the cosine kernel. The paper sums over pairs; the mean is its code's, and the usual weight of 30,000 belongs
    to the mean. A row counts as its own neighbour, as in the code. Unchanged when either side is turned or scaled.

    Args:
        student, teacher: pooled features, which may differ in width. A feature of 0 is at right angles to all. No
            gradient flows to the teacher.

    Exact with `embedding` targets, whose features lose no more than their codec does, and with a live teacher; `topk`
    and `full` hold no features. Under DDP, the rows of all ranks (`gather_rows`).
    """
    with without_autocast(student):
        ours = _neighbours(at_least_float32(student))
        theirs = _neighbours(at_least_float32(teacher.detach()))
        return (theirs * ((theirs + _FLOOR) / (ours + _FLOOR)).log()).mean()


def _neighbours(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """Return each row's distribution over all rows; a rounded cosine may lie below -1."""
    directions = unit(rows)
    likeness = ((directions @ directions.T + 1.0) / 2.0).clamp_min(0.0)
    return likeness / likeness.sum(dim=1, keepdim=True).clamp_min(_FLOOR)


@checked
@dataclass(frozen=True)
class PKT(FromFeatures):
    """kd_weight * PKT + label_weight * label loss, and vanilla distillation beside it if wanted.

    The weight is that of the paper's code in the benchmark of Tian et al. 2020.
    """

    name: Literal["pkt"] = "pkt"
    kd_weight: KdWeight = 30_000.0

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `pkt` of the rows of all processes."""
        return pkt(*map(gather_rows, self.features_of(inputs)))
