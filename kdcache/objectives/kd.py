"""Vanilla knowledge distillation."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kdcache.objectives.precision import at_least_float32


def kd(
    student_logits: Float[Tensor, "b c"], teacher_log_probs: Float[Tensor, "b c"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """T^2 * mean over b of sum over c of p_t log(p_t / p_s), both softened by the temperature T.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network". The mean runs over the batch only
    ("batchmean"), and the teacher's entropy is part of it, so that 0 means agreement.

    Args:
        student_logits: any real numbers.
        teacher_log_probs: log-probabilities of the teacher at T = 1; -inf stands for a probability of 0. A constant: no
            gradient flows to it.
        temperature: T > 0. Anything but 1 needs the teacher's whole vector: a uniform tail is no longer close.

    Exact with `full` and `embedding` targets. With `topk` the gradient is off by at most twice the tail mass (L1).
    """
    return kd_by_row(student_logits, teacher_log_probs, temperature).mean()


def kd_by_row(
    student_logits: Float[Tensor, "b c"], teacher_log_probs: Float[Tensor, "b c"], temperature: float = 1.0
) -> Float[Tensor, "b"]:
    """`kd` of each row, T^2 included; its mean is `kd`."""
    logits, teacher = at_least_float32(student_logits), at_least_float32(teacher_log_probs.detach())
    if temperature != 1:  # to divide by 1 would cost two passes over all classes
        logits, teacher = logits / temperature, F.log_softmax(teacher / temperature, dim=-1)
    # 0 log 0 is 0, but 0 * -inf is not: the logarithm becomes the least finite number.
    terms = teacher.exp() * (teacher.clamp(min=torch.finfo(teacher.dtype).min) - F.log_softmax(logits, dim=-1))
    return terms.sum(dim=-1) if temperature == 1 else temperature**2 * terms.sum(dim=-1)
