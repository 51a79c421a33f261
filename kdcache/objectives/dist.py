"""DIST: match how probabilities are related, within a row and within a class."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.distillation import APPROXIMATELY, Distillation
from kdcache.objectives.flat_rows import constant_where_flat
from kdcache.objectives.gathering import gather_rows
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import Approximate, KdWeight, Temperature, TermWeight

EPSILON = 1e-8


def dist(
    student_logits: Float[Tensor, "b c"],
    teacher_log_probs: Float[Tensor, "b c"],
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 * (beta * (1 - mean over b of rho(rows)) + gamma * (1 - mean over c of rho(columns))).

    rho is Pearson's correlation of the student's softened probabilities with the teacher's, with a small number beside
    the product of both spreads: rho = a . b / (|a| |b| + 1e-8) of what is left without the means. So a class of next
    to no probability in the batch counts next to nothing; a row or column that does not vary counts as 0, without a
    gradient. Huang et al. 2022, "Knowledge Distillation from a Stronger
    Teacher", the sum of its inter-class and intra-class relations, with the square of the temperature as in its code.
    Columns are compared over the rows that are given: `DIST` gives those of all ranks.

    Args:
        student_logits: any real numbers.
        teacher_log_probs: log-probabilities of the teacher at T = 1. A constant: no gradient flows to it.
        beta, gamma: weights of rows (between classes) and of columns (within a class).
        temperature: T > 0.

    Exact with `full` and `embedding` targets. With `topk` rows are close at T = 1; columns are not, as correlation
    forgets scale and so makes as much of a class's tail as of its large probabilities.
    """
    student = F.softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.softmax(at_least_float32(teacher_log_probs.detach()) / temperature, dim=1)
    total = student.new_zeros(())
    if beta > 0:
        total = total + beta * _relation(student, teacher)
    if gamma > 0:
        total = total + gamma * _relation(student.T, teacher.T)
    return temperature**2 * total


def _relation(one: Float[Tensor, "n m"], other: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """Return 1 less the mean correlation of rows."""
    one, other = (z - z.mean(dim=1, keepdim=True) for z in map(constant_where_flat, (one, other)))
    # Not F.cosine_similarity, which bounds each norm by itself: then classes that nobody thinks of count in full.
    spreads = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    return 1 - ((one * other).sum(dim=1) / (spreads + EPSILON)).mean()


@checked
@dataclass(frozen=True)
class DIST(Distillation):
    """kd_weight * DIST + label_weight * label loss.

    The paper's beta and gamma are 1 and its code multiplies both by 2, which is kd_weight here. T is 1 on ImageNet and
    4 on CIFAR (`dist-cifar`).

    Attributes:
        temperature: temperature of both sides, T > 0.
        beta, gamma: weights of rows and of columns.
        approximate: whether `topk` targets are taken too, with their tail spread evenly, which is far off for columns.
    """

    name: Literal["dist"] = "dist"
    kd_weight: KdWeight = 2.0
    temperature: Temperature = 1.0
    beta: TermWeight = 1.0
    gamma: TermWeight = 1.0
    approximate: Approximate = False

    relates_rows = True  # a class's column runs over the batch

    def needs_full(self) -> str:
        """Return advice unless a tail is taken as even, as columns need every class."""
        if self.approximate:
            return ""
        if self.gamma > 0:
            return "set objective.gamma=0 with --approximate, which leaves the relation of rows"
        return APPROXIMATELY

    @property
    def far_from_topk(self) -> str:
        """What an evenly spread tail puts far off: the columns, if they have weight."""
        return "columns are far off, and objective.gamma=0 leaves them out" if self.gamma > 0 else ""

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `dist`: rows as they are, columns over the rows of all ranks."""
        student, teacher = inputs.logits, inputs.teacher_log_probs
        total = dist(student, teacher, beta=self.beta, gamma=0.0, temperature=self.temperature)
        if self.gamma > 0:
            student, teacher = map(gather_rows, (student, teacher))
            total = total + dist(student, teacher, beta=0.0, gamma=self.gamma, temperature=self.temperature)
        return total
