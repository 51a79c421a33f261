"""The objective of vanilla distillation: a KL divergence and a label loss."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.distillation import SoftenedDistillation
from kdcache.objectives.kd import kd
from kdcache.objectives.settings import LabelLossName


@checked
@dataclass(frozen=True)
class VanillaKD(SoftenedDistillation):
    """kd_weight * KL(teacher || student) + label_weight * label loss.

    With kd_weight 0 it is supervised training. The weights are 1 and 1 where the paper's code has them ("Revisit
    the Power of Vanilla Knowledge Distillation", Hao et al. 2023); its Eq. 1 has 0.5 and 0.5.
    """

    name: Literal["kd"] = "kd"
    label_loss: LabelLossName = "bce"

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `kd` at the temperature."""
        return kd(inputs.logits, inputs.teacher_log_probs, self.temperature)
