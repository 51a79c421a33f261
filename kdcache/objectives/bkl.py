"""Binary KL: each class is a question of its own."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.distillation import Distillation
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import LabelLossName


def bkl(student_logits: Float[Tensor, "b c"], teacher_log_probs: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """Mean over b and c of - p_t log sigmoid(z_s) - (1 - p_t) log sigmoid(-z_s).

    Hao et al. 2023, "Revisit the Power of Vanilla Knowledge Distillation", Eq. 3, which sums binary KL divergences;
    the paper's code leaves out the teacher's entropy, whose gradient is 0, and takes the mean over the classes too.

    Args:
        student_logits: any real numbers. Not invariant to a shift: the sigmoid has no softmax to undo it.
        teacher_log_probs: log-probabilities of the teacher, by its softmax at T = 1. A constant: no gradient flows to
            it.

    Exact with `full` and `embedding` targets. With `topk` the gradient is off by at most twice the tail mass over c
    (L1).
    """
    logits = at_least_float32(student_logits)
    probs = teacher_log_probs.detach().exp().to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, probs)


@checked
@dataclass(frozen=True)
class BKL(Distillation):
    """kd_weight * BKL + label_weight * label loss, 1 and 1 and BCE as in the paper's code."""

    name: Literal["bkl"] = "bkl"
    label_loss: LabelLossName = "bce"

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `bkl`."""
        return bkl(inputs.logits, inputs.teacher_log_probs)
