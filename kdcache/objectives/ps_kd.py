"""Self-distillation: the student's own earlier predictions soften its labels."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.io.checked import Setting, checked
from kdcache.objectives.base import Losses, LossInputs, Needs, Objective
from kdcache.objectives.distillation import ANOTHER_OBJECTIVE
from kdcache.objectives.labels import cross_entropy, soft_labels
from kdcache.objectives.settings import Smoothing


def ps_kd(
    student_logits: Float[Tensor, "b c"],
    soft: Float[Tensor, "b c"],
    past_probs: Float[Tensor, "b c"],
    alpha: float,
) -> Float[Tensor, ""]:
    """Mean over b of H((1 - alpha) y + alpha p_past, p_s), H being the cross-entropy.

    Kim et al. 2021, "Self-Knowledge Distillation with Progressive Refinement of Targets".

    Args:
        student_logits: any real numbers.
        soft: y, the labels; those of a mixed image are mixed.
        past_probs: probabilities that the student gave the image a round before, mixed in the same way. A row of it
            may sum to less than 1, where it was not seen then: the label takes what is missing.
        alpha: trust in the past, in 0..1.

    Needs no teacher and no cache.
    """
    past_probs = past_probs.detach()
    known = past_probs.sum(dim=1, keepdim=True)
    return cross_entropy(student_logits, (1 - alpha * known) * soft + alpha * past_probs)


@checked
@dataclass(frozen=True)
class PSKD(Objective):
    """Progressive self-distillation: alpha grows linearly with the epochs, to `alpha` in the last.

    The paper's alpha for ImageNet is 0.3, for CIFAR 0.8 (`ps-kd-cifar`). Predictions are kept in half precision by
    sample. As in the paper's code, those of a mixed image are kept for both of it, which is right for neither.

    Attributes:
        alpha: trust in the past in the last epoch, 0..1.
        smoothing: label smoothing, 0..1.
    """

    name: Literal["ps-kd"] = "ps-kd"
    alpha: Annotated[float, Setting("Trust in the past in the last epoch.", least=0, most=1)] = 0.3
    smoothing: Smoothing = 0.0

    @property
    def needs(self) -> Needs:
        """What it must be given: labels and the student's earlier predictions."""
        return Needs(teacher=False, labels=ANOTHER_OBJECTIVE, history=True)

    @property
    def parts(self) -> tuple[str, ...]:
        """The name of its one loss."""
        return ("label",)

    def without_teacher(self) -> "PSKD":
        """Return the objective itself, which has no teacher."""
        return self

    def __call__(self, inputs: LossInputs) -> Losses:
        """Compute `ps_kd` with the alpha of the epoch."""
        if inputs.past_probs is None:
            raise UsageError("This objective learns from the student's past predictions, and none are given.")
        soft = soft_labels(inputs.labels, inputs.weight, inputs.logits.shape[1], self.smoothing)
        alpha = self.alpha * (inputs.epoch + 1) / inputs.epochs
        loss = ps_kd(
            inputs.logits, soft.to(inputs.logits.dtype), inputs.past_probs.to(inputs.logits.dtype), min(alpha, 1.0)
        )
        return Losses(loss, {"label": loss})
