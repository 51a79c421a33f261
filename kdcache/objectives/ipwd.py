"""Inverse probability weighting: learn more from the teacher where its data says less."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.errors import UsageError
from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs, LossSpec
from kdcache.objectives.distillation import ANOTHER_OBJECTIVE, SoftenedDistillation
from kdcache.objectives.kd import kd_by_row
from kdcache.objectives.labels import cross_entropy, soft_labels
from kdcache.objectives.lskd import standardized
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import KdWeight, Temperature

EPSILON = 1e-7


def ipwd(
    student_logits: Float[Tensor, "b c"],
    head_logits: Float[Tensor, "b c"],
    teacher_log_probs: Float[Tensor, "b c"],
    soft: Float[Tensor, "b c"],
    temperature: float = 2.0,
) -> Float[Tensor, ""]:
    """Mean over b of (1 + H(y, p_cls) / H(y, p_kd)) * T^2 * KL(p_t^T || p_s^T).

    p_cls and p_kd are the softmax of the standardised logits of a head that learnt from labels alone, and of the
    student's own; their ratio estimates the inverse of the propensity that the teacher's data holds such a sample.
    The weights are constants. Niu et al. 2022, "Respecting Transfer Gap in Knowledge Distillation".

    Args:
        student_logits: any real numbers.
        head_logits: logits of the head, on the same features. A constant here: no gradient flows to it.
        teacher_log_probs: log-probabilities of the teacher at T = 1. A constant: no gradient flows to it.
        soft: soft labels y; those of a mixed image are mixed.
        temperature: T > 0.

    Exact with `full` and `embedding` targets. With `topk` the weights are exact, as they do not ask the teacher, and at
    T = 1 the gradient of a row is off by at most twice its tail mass times the row's weight (L1).
    """
    from_labels, from_teacher = (
        -(soft * F.log_softmax(standardized(logits.detach()), dim=1)).sum(dim=1)
        for logits in (head_logits, student_logits)
    )
    weight = 1 + from_labels / (from_teacher + EPSILON)
    return (weight * kd_by_row(student_logits, teacher_log_probs, temperature)).mean()


@checked
@dataclass(frozen=True)
class IPWD(SoftenedDistillation):
    """kd_weight * IPWD + label_weight * label loss + the cross-entropy of its classification head.

    The head is a linear layer of its own on the student's features, which its loss does not change: it measures, and
    the student is what it would be without it but for the weights. It never reaches the export. Weight and
    temperature are those of WSLD, with which the paper compares: 2.5 and T = 2 for ImageNet, 2.25 and T = 4 for CIFAR
    (`ipwd-cifar`).
    """

    name: Literal["ipwd"] = "ipwd"
    kd_weight: KdWeight = 2.5
    temperature: Temperature = 2.0

    distils_by_label = True
    needs_features = True
    fewest_classes = 3  # standardised, two logits are 1 and -1 whatever they were
    extra_parts = ("head",)

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Create the head; None where there is nothing to weigh."""
        if not self.needs.features:
            return None
        if spec.num_features is None:
            raise UsageError(f"The student has no features for a second head: {ANOTHER_OBJECTIVE}.")
        return nn.Linear(spec.num_features, spec.num_classes)

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `ipwd` on labels without smoothing."""
        return ipwd(inputs.logits, _head(inputs).detach(), inputs.teacher_log_probs, _labels(inputs), self.temperature)

    def extras(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Compute the loss of the head, which reaches nothing but the head."""
        return {"head": cross_entropy(_head(inputs), _labels(inputs))}


def _head(inputs: LossInputs) -> Float[Tensor, "b c"]:
    if inputs.aux_module is None or inputs.features is None:
        raise UsageError("This objective needs the student's features and a head on them, and they are not given.")
    return inputs.aux_module(at_least_float32(inputs.features.detach()))


def _labels(inputs: LossInputs) -> Float[Tensor, "b c"]:
    return soft_labels(inputs.labels, inputs.weight, inputs.logits.shape[1])
