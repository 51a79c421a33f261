"""The objective of vanilla distillation: a KL divergence and a label loss, each with its weight."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.errors import ConfigError, UsageError
from kdcache.objectives.base import Answers, Losses, Needs
from kdcache.objectives.kd import kd
from kdcache.objectives.labels import binary_cross_entropy, cross_entropy, soft_labels

LabelLoss = Literal["ce", "bce", "none"]


@dataclass(frozen=True)
class VanillaKD:
    """kd_weight * KL(teacher || student) + label_weight * label loss; a weight of 0 leaves its part out.

    With kd_weight 0 it is supervised training. The weights are 1 and 1 where the paper's code has them ("Revisit
    the Power of Vanilla Knowledge Distillation", Hao et al. 2023); its Eq. 1 has 0.5 and 0.5.

    Attributes:
        temperature: of the distillation part, T > 0.
        kd_weight, label_weight: of the parts.
        label_loss: "ce", "bce" or "none".
        smoothing: of the labels, 0..1.
        bce_sum: sum the binary cross-entropy over the classes in place of timm's mean.
    """

    name: Literal["kd"] = "kd"
    temperature: float = 1.0
    kd_weight: float = 1.0
    label_loss: LabelLoss = "bce"
    label_weight: float = 1.0
    smoothing: float = 0.0
    bce_sum: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"objective.temperature is {self.temperature}: give a number above 0.")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"objective.smoothing is {self.smoothing}: give a share in 0..1, below 1.")
        if self.kd_weight < 0 or self.label_weight < 0:
            raise ConfigError("A weight of the objective is negative: give 0 to leave a part out.")
        if not self.needs.teacher and not self.needs.labels:
            raise ConfigError("The objective has no part left: give kd_weight or label_weight above 0.")

    @property
    def needs(self) -> Needs:
        """What it must be given."""
        distils = self.kd_weight > 0
        return Needs(
            teacher=distils,
            full=distils and self.temperature != 1,
            labels=self.label_loss != "none" and self.label_weight > 0,
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that a call reports, in order."""
        return ("kd",) * self.needs.teacher + ("label",) * self.needs.labels

    def __call__(
        self,
        student_logits: Float[Tensor, "b c"],
        answers: Answers | None,
        labels: Int64[Tensor, "b 2"],
        weight: Float[Tensor, "b"],
    ) -> Losses:
        """The loss of a batch; arguments as `Objective` has them."""
        parts: dict[str, Tensor] = {}
        total = student_logits.new_zeros(())
        num_classes = student_logits.shape[1]
        if self.needs.teacher:
            if answers is None:
                raise UsageError("This objective distils, and no teacher's answers are given.")
            parts["kd"] = kd(student_logits, answers.log_probs(num_classes), self.temperature)
            total = total + self.kd_weight * parts["kd"]
        if self.needs.labels:
            soft = soft_labels(labels, weight, num_classes, self.smoothing)
            parts["label"] = self._label_loss(student_logits, soft)
            total = total + self.label_weight * parts["label"]
        return Losses(total, parts)

    def _label_loss(self, logits: Float[Tensor, "b c"], soft: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
        if self.label_loss == "ce":
            return cross_entropy(logits, soft)
        return binary_cross_entropy(logits, soft, sum_classes=self.bce_sum)
