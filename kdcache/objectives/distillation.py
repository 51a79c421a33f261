"""What the objectives with a teacher have in common: a distillation term and a label loss, each with its weight."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdcache.errors import ConfigError
from kdcache.objectives.base import Losses, LossInputs, LossSpec, Needs
from kdcache.objectives.labels import binary_cross_entropy, cross_entropy, soft_labels

D = TypeVar("D", bound="Distillation")
LabelLoss = Literal["ce", "bce", "none"]

#: Which label loss there is: a method's own where its paper states one, and else a recipe's.
LABEL_LOSS_SETTINGS = ("label_loss", "bce_sum", "bce_target_thresh")

#: The largest temperature, weight, width, and number of negatives or epochs.
MOST = 2**16

ANOTHER_OBJECTIVE = "choose one that does without, such as objective.name=kd"
APPROXIMATELY = "set objective.approximate=true (--approximate), which spreads the rest evenly"


@dataclass(frozen=True)
class Distillation(ABC):
    """kd_weight * distillation + label_weight * label loss; a weight of 0 leaves its part out.

    Attributes:
        kd_weight, label_weight: of the parts.
        kd_stop_epoch: the distillation term has no weight from this epoch (counted from 0) on, and is reported still;
            None: never. Cho and Hariharan 2019, "On the Efficacy of Knowledge Distillation" (ESKD).
        label_loss: "ce", "bce" or "none".
        smoothing: of the labels, 0..1.
        bce_sum: sum the binary cross-entropy over the classes in place of timm's mean.
        bce_target_thresh: the binary cross-entropy takes soft labels above it for 1 and the others for 0; None: as
            they are.
    """

    name: str = ""
    kd_weight: float = 1.0
    kd_stop_epoch: int | None = None
    label_loss: LabelLoss = "ce"
    label_weight: float = 1.0
    smoothing: float = 0.0
    bce_sum: bool = False
    bce_target_thresh: float | None = None

    teacher_weights: ClassVar[tuple[str, ...]] = ("kd_weight",)
    """Settings that are 0 without a teacher."""

    distils_by_label: ClassVar[bool] = False
    """Whether the distillation term needs labels itself."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"objective.smoothing is {self.smoothing}: give a share in 0..1, below 1.")
        if self.bce_target_thresh is not None and not 0 <= self.bce_target_thresh < 1:
            raise ConfigError(f"objective.bce_target_thresh is {self.bce_target_thresh}: give 0..1, below 1, or null.")
        if self.kd_stop_epoch is not None and self.kd_stop_epoch < 1:
            raise ConfigError(f"objective.kd_stop_epoch is {self.kd_stop_epoch}: give at least 1, or null.")
        require_weights(kd_weight=self.kd_weight, label_weight=self.label_weight)
        if not self._distils and not self._has_label_loss:
            raise ConfigError("The objective has no part left: give kd_weight or label_weight above 0.")
        if self.kd_stop_epoch is not None and not self._has_label_loss:
            raise ConfigError(
                "objective.kd_stop_epoch leaves nothing to learn from, as there is no label loss: set "
                "objective.label_loss to ce or bce, or kd_stop_epoch to null."
            )

    @abstractmethod
    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """The distillation term before its weight."""

    def needs_full(self) -> str:
        """`Needs.full`, where it distils."""
        return ""

    def ramp(self, epoch: int) -> float:
        """The share of its weight that the distillation term has in an epoch, in 0..1."""
        return 1.0

    def terms(self, inputs: LossInputs) -> dict[str, tuple[float, Float[Tensor, ""]]]:
        """What `kd_stop_epoch` ends: names, weights and losses; the distillation term first."""
        return {"kd": (self.kd_weight * self.ramp(inputs.epoch), self.distil(inputs))}

    def extras(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Further losses, each of weight 1, in the order of `extra_parts`."""
        return {}

    term_parts: ClassVar[tuple[str, ...]] = ("kd",)
    extra_parts: ClassVar[tuple[str, ...]] = ()
    needs_features: ClassVar[bool] = False
    fewest_classes: ClassVar[int] = 1
    far_from_topk: ClassVar[str] = ""
    """What a tail that is spread evenly puts far off, as a clause; for what takes it only where `approximate`."""

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Nothing, unless a method says otherwise."""
        return None

    @property
    def needs(self) -> Needs:
        """What it must be given."""
        labels = ""
        if self._has_label_loss or (self._distils and self.distils_by_label):
            changes = " and ".join(f"objective.{name}={plainly(value)}" for name, value in self.without_labels.items())
            labels = f"set {changes}" if changes else ANOTHER_OBJECTIVE
        return Needs(
            teacher=self._distils,
            full=self.needs_full() if self._distils else "",
            labels=labels,
            features=self._distils and self.needs_features,
            classes=self.fewest_classes if self._distils else 1,
        )

    @property
    def without_labels(self) -> Mapping[str, str | float]:
        """Settings with which it learns where images have no label; empty where none would do."""
        return {} if self._distils and self.distils_by_label else {"label_loss": "none"}

    @property
    def idle(self) -> tuple[str, ...]:
        """Settings that have no effect, as the others are."""
        idle = () if self._has_label_loss else ("smoothing",)
        return (*idle, "warmup_epochs") if getattr(self, "warmup_epochs", 1) <= 1 else idle

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that a call reports, in order."""
        distilled = self.term_parts * self._distils
        return distilled + ("label",) * self._has_label_loss + self.extra_parts * self._distils

    def without_teacher(self: D) -> D:
        """Its label loss alone, which then is the whole of it."""
        if self.label_loss == "none":
            raise ConfigError(
                "objective.label_loss is none, and --supervised has nothing else to learn from: set it to ce or bce."
            )
        changes: dict[str, Any] = dict.fromkeys(self.teacher_weights, 0.0)
        return dataclasses.replace(self, kd_stop_epoch=None, label_weight=1.0, **changes)

    def __call__(self, inputs: LossInputs) -> Losses:
        """The loss of a batch."""
        parts: dict[str, Tensor] = {}
        total = inputs.logits.new_zeros((), dtype=torch.promote_types(inputs.logits.dtype, torch.float32))
        if self._distils:
            stopped = self.kd_stop_epoch is not None and inputs.epoch >= self.kd_stop_epoch
            with torch.set_grad_enabled(torch.is_grad_enabled() and not stopped):
                terms = self.terms(inputs)
            for name, (weight, loss) in terms.items():
                parts[name] = loss
                if not stopped:
                    total = total + weight * loss
        if self._has_label_loss:
            parts["label"] = self._label_loss(inputs)
            total = total + self.label_weight * parts["label"]
        if self._distils:
            for name, loss in self.extras(inputs).items():
                parts[name] = loss
                total = total + loss
        return Losses(total, parts)

    @property
    def _distils(self) -> bool:
        return self.kd_weight > 0

    @property
    def _has_label_loss(self) -> bool:
        return self.label_loss != "none" and self.label_weight > 0

    def _label_loss(self, inputs: LossInputs) -> Float[Tensor, ""]:
        soft = soft_labels(inputs.labels, inputs.weight, inputs.logits.shape[1], self.smoothing)
        if self.label_loss == "ce":
            return cross_entropy(inputs.logits, soft)
        return binary_cross_entropy(inputs.logits, soft, sum_classes=self.bce_sum, target_thresh=self.bce_target_thresh)


def plainly(value: object) -> str:
    """A setting's value as one writes it: 1 for 1.0, [1, 2] for (1, 2)."""
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_above_zero(**values: int | float) -> None:
    """Raise ConfigError, naming the setting, unless each value is above 0 and at most `MOST`."""
    for name, value in values.items():
        if not 0 < value <= MOST:
            refuse(name, value, f"a number above 0, at most {MOST:,}")


def require_weights(**values: int | float) -> None:
    """Raise ConfigError, naming the setting, unless each value is at least 0 and at most `MOST`."""
    for name, value in values.items():
        if not 0 <= value <= MOST:
            refuse(name, value, f"at least 0, at most {MOST:,}")


def refuse(name: str, value: object, wanted: str) -> NoReturn:
    """Raise the ConfigError of a setting of the objective."""
    raise ConfigError(f"objective.{name} is {value}: give {wanted}.")
