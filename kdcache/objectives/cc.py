"""Correlation congruence: relations between samples, in embeddings learned for both networks."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs, LossSpec
from kdcache.objectives.beyond_logits import FromFeatures
from kdcache.objectives.distillation import ANOTHER_OBJECTIVE
from kdcache.objectives.gathering import gather_rows
from kdcache.objectives.geometry import unit
from kdcache.objectives.precision import at_least_float32, without_autocast
from kdcache.objectives.settings import KdWeight, Width


def cc(student: Float[Tensor, "b d"], teacher: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Mean over the b - 1 pairs of neighbouring rows of sum over d of |s_i - t_i| |s_i+1 - t_i+1|.

    The code of Peng et al. 2019, "Correlation Congruence for Knowledge Distillation" (arXiv:1904.01802), as its author
    gave it to the benchmark of "Contrastive Representation Distillation"; that benchmark's weight of 0.02 belongs to
    it. It depends on the order of rows, and it isn't the paper's formula: that is `cc_kernel`. 0 for one row.

    Args:
        student, teacher: embeddings of one width (`Embeddings`). Gradients flow to both, as the reference trains both
            embeddings.

    Exact with `embedding` targets, whose features lose no more than their codec does, and with a live teacher; `topk`
    and `full` hold no features. Under DDP, the rows of all ranks (`gather_rows`).
    """
    apart = (at_least_float32(student) - at_least_float32(teacher)).abs()
    return (apart[:-1] * apart[1:]).sum() / max(len(apart) - 1, 1)


def cc_kernel(
    student: Float[Tensor, "b s"], teacher: Float[Tensor, "b t"], gamma: float = 0.4, order: int = 2
) -> Float[Tensor, ""]:
    """1 / b^2 * ||K_s - K_t||^2 (Frobenius), K_ij = exp(-2 g) * sum over p = 0..order of (2 g)^p / p! (f_i . f_j)^p.

    The paper's formula with its Gaussian kernel, expanded as a Taylor series to `order`; g (gamma) and order
    are the paper's. It is the series of exp(-g |f_i - f_j|^2) for features of length 1, so they are brought to it.

    Args:
        student, teacher: pooled features or embeddings, which may differ in width. No gradient flows to the teacher.

    Exact with `embedding` targets, whose features lose no more than their codec does, and with a live teacher; `topk`
    and `full` hold no features. Under DDP, the rows of all ranks (`gather_rows`).
    """
    with without_autocast(student):
        ours = _kernel(at_least_float32(student), gamma, order)
        theirs = _kernel(at_least_float32(teacher.detach()), gamma, order)
        return (ours - theirs).square().mean()


def _kernel(rows: Float[Tensor, "b d"], gamma: float, order: int) -> Float[Tensor, "b b"]:
    directions = unit(rows)
    cosines = directions @ directions.T
    series = torch.ones_like(cosines)
    for p in range(1, order + 1):
        series = series + (2 * gamma) ** p / math.factorial(p) * cosines**p
    return math.exp(-2 * gamma) * series


class Embeddings(nn.Module):
    """Linear maps of both networks' pooled features to one width, trained beside the student and never exported.

    Under DDP their outputs are gathered, not their inputs: so each rank's share of their gradient is its own rows'.
    """

    def __init__(self, student_width: int, teacher_width: int, width: int = 128) -> None:
        super().__init__()
        self.student = nn.Linear(student_width, width)
        self.teacher = nn.Linear(teacher_width, width)

    def forward(
        self, student: Float[Tensor, "b s"], teacher: Float[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return the embeddings of a batch; no gradient flows to the teacher's features."""
        dtype = self.student.weight.dtype
        return self.student(student.to(dtype)), self.teacher(teacher.detach().to(dtype))


@checked
@dataclass(frozen=True)
class CC(FromFeatures):
    """kd_weight * CC + label_weight * label loss, and vanilla distillation beside it if wanted.

    Weight and width are those of the author's code in the benchmark of Tian et al. 2020.

    Attributes:
        width: width of the embeddings that are learnt for both networks.
    """

    name: Literal["cc"] = "cc"
    kd_weight: KdWeight = 0.02
    width: Width = 128

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Create the embeddings; None where there is nothing to relate."""
        if not self.needs.features:
            return None
        if spec.num_features is None or spec.teacher_features is None:
            raise UsageError(f"There are no features to be embedded: {ANOTHER_OBJECTIVE}.")
        return Embeddings(spec.num_features, spec.teacher_features, self.width)

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `cc` of the rows of all processes."""
        features = self.features_of(inputs)
        if inputs.aux_module is None:
            raise UsageError("This objective learns embeddings of features, and they are not given.")
        return cc(*map(gather_rows, inputs.aux_module(*features)))
