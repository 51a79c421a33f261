"""The objective of vanilla distillation: a KL divergence and a label loss."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from kdcache.objectives.base import LossInputs
from kdcache.objectives.distillation import Distillation, LabelLoss, require_above_zero
from kdcache.objectives.kd import kd


@dataclass(frozen=True)
class VanillaKD(Distillation):
    """kd_weight * KL(teacher || student) + label_weight * label loss.

    With kd_weight 0 it is supervised training. The weights are 1 and 1 where the paper's code has them ("Revisit
    the Power of Vanilla Knowledge Distillation", Hao et al. 2023); its Eq. 1 has 0.5 and 0.5.

    Attributes:
        temperature: of the distillation part, T > 0.
        approximate: soften `topk` answers too, their tail spread evenly.
    """

    name: Literal["kd"] = "kd"
    label_loss: LabelLoss = "bce"
    temperature: float = 1.0
    approximate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above_zero(temperature=self.temperature)

    def needs_full(self) -> str:
        """Softening needs the order within the tail."""
        if self.temperature == 1 or self.approximate:
            return ""
        return "set objective.temperature=1, or accept a tail spread evenly with --approximate"

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """`kd` at the temperature."""
        return kd(inputs.logits, inputs.teacher_log_probs, self.temperature)
