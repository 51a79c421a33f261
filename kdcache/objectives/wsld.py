"""Weighted soft labels: learn less from the teacher where the student already does better."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.distillation import SoftenedDistillation
from kdcache.objectives.labels import soft_labels
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import KdWeight, Temperature

EPSILON = 1e-7


def wsld(
    student_logits: Float[Tensor, "b c"],
    teacher_log_probs: Float[Tensor, "b c"],
    soft: Float[Tensor, "b c"],
    temperature: float = 2.0,
) -> Float[Tensor, ""]:
    """T^2 * mean over b of (1 - exp(- H(y, p_s) / (H(y, p_t) + 1e-7))) * H(p_t^T, p_s^T).

    H is the cross-entropy; the weights are taken at T = 1 and are constants. Zhou et al. 2021, "Rethinking Soft Labels
    for Knowledge Distillation: A Bias-Variance Tradeoff Perspective", its weighted soft labels.

    Args:
        student_logits: any real numbers.
        teacher_log_probs: log-probabilities of the teacher at T = 1, finite. A constant: no gradient flows to it.
        soft: soft labels y; those of a mixed image are mixed.
        temperature: T > 0.

    Exact with `full` and `embedding` targets. With `topk` the weights are exact but for the codec's steps, as the
    probabilities of both labels are always stored, and at T = 1 the gradient is off by at most twice the tail mass
    (L1), beside these steps.
    """
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_log_probs.detach())
    own = -(soft * F.log_softmax(student.detach(), dim=1)).sum(dim=1)
    theirs = -(soft * teacher).sum(dim=1)
    weight = 1 - (-own / (theirs + EPSILON)).exp()
    crossed = -(F.softmax(teacher / temperature, dim=1) * F.log_softmax(student / temperature, dim=1)).sum(dim=1)
    return temperature**2 * (weight * crossed).mean()


@checked
@dataclass(frozen=True)
class WSLD(SoftenedDistillation):
    """kd_weight * WSLD + label_weight * label loss.

    Weight and temperature are the paper's: 2.5 and T = 2 for ImageNet, 2.25 and T = 4 for CIFAR (`wsld-cifar`).
    """

    name: Literal["wsld"] = "wsld"
    kd_weight: KdWeight = 2.5
    temperature: Temperature = 2.0

    distils_by_label = True

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `wsld` on labels without smoothing."""
        soft = soft_labels(inputs.labels, inputs.weight, inputs.logits.shape[1])
        return wsld(inputs.logits, inputs.teacher_log_probs, soft, self.temperature)
