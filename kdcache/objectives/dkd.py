"""Decoupled knowledge distillation: how sure of the label, and how the rest is divided."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.distillation import APPROXIMATELY, Distillation
from kdcache.objectives.kd import kd
from kdcache.objectives.labels import hard_labels
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import Approximate, Temperature, TermWeight, WarmupEpochs


def dkd(
    student_logits: Float[Tensor, "b c"],
    teacher_log_probs: Float[Tensor, "b c"],
    target: Int64[Tensor, "b"],
    *,
    alpha: float = 1.0,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 * mean over b of alpha * KL([q_t, 1 - q_t] || [q_s, 1 - q_s]) + beta * KL(r_t || r_s).

    q is the softened probability of the target class, r the softened distribution over all other classes, which sums
    to 1 without it. Zhao et al. 2022, "Decoupled Knowledge Distillation", Eq. 7; computed in logarithms throughout.

    Args:
        student_logits: any real numbers.
        teacher_log_probs: log-probabilities of the teacher at T = 1. A constant: no gradient flows to it.
        target: the class that counts as the label, 0 <= target < c.
        alpha, beta: weights of the two.
        temperature: T > 0.

    Exact with `full` and `embedding` targets. With `topk` at T = 1 the first term is exact but for the codec's
    steps, as the probability of a label is always stored; the second is not, the less so the surer the teacher is of
    the label.

    Raises:
        UsageError: fewer than 3 classes, where nothing is left to be divided.
    """
    if student_logits.shape[1] < 3:
        raise UsageError("DKD divides what is left beside the label, which needs 3 classes: use objective.name=kd.")
    student = at_least_float32(student_logits) / temperature
    teacher = at_least_float32(teacher_log_probs.detach()) / temperature
    others = torch.ones_like(student, dtype=torch.bool).scatter_(1, target[:, None], False)
    student_rest, teacher_rest = (z[others].view(len(z), -1) for z in (student, teacher))
    sure = kd(_sides(student, student_rest, target), _sides(teacher, teacher_rest, target).log_softmax(1))
    divided = kd(student_rest, teacher_rest.log_softmax(1))
    return temperature**2 * (alpha * sure + beta * divided)


def _sides(
    logits: Float[Tensor, "b c"], rest: Float[Tensor, "b r"], target: Int64[Tensor, "b"]
) -> Float[Tensor, "b 2"]:
    """Return the logits of "the target" and "anything else"."""
    return torch.cat([logits.gather(1, target[:, None]), rest.logsumexp(1, keepdim=True)], dim=1)


@checked
@dataclass(frozen=True)
class DKD(Distillation):
    """kd_weight * DKD + label_weight * label loss. A mixed image counts with the label that has the larger share.

    The defaults are the reference code's for ImageNet (a ResNet-18 under a ResNet-34); the paper goes up to beta = 2
    there. For CIFAR they are beta = 8, T = 4 and a warm-up of 20 epochs (`dkd-cifar`).

    Attributes:
        temperature: temperature of both sides, T > 0.
        alpha, beta: weights of being sure of the label and of dividing the rest.
        warmup_epochs: number of epochs in which the term grows linearly to its weight; the first epoch has 1 /
            warmup_epochs of it.
        approximate: whether `topk` targets are taken too, with their tail spread evenly.
    """

    name: Literal["dkd"] = "dkd"
    temperature: Temperature = 1.0
    alpha: TermWeight = 1.0
    beta: TermWeight = 0.5
    warmup_epochs: WarmupEpochs = 1
    approximate: Approximate = False

    distils_by_label = True
    fewest_classes = 3

    def needs_full(self) -> str:
        """Return advice unless a tail is taken as even, as the rest is divided among all classes."""
        return "" if self.approximate else APPROXIMATELY

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `dkd` with the label that has the larger share."""
        target = hard_labels(inputs.labels, inputs.weight)
        return dkd(
            inputs.logits,
            inputs.teacher_log_probs,
            target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
