"""The base classes of objectives with a teacher: a distillation term and a label loss, each with its weight."""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.io.checked import checked
from kdcache.objectives.base import Losses, LossInputs, Needs, Objective
from kdcache.objectives.labels import binary_cross_entropy, cross_entropy, soft_labels
from kdcache.objectives.settings import (
    Approximate,
    BceSum,
    BceTargetThresh,
    KdStopEpoch,
    KdWeight,
    LabelLossName,
    LabelWeight,
    Smoothing,
    Temperature,
)

D = TypeVar("D", bound="Distillation")

#: The settings of the label loss, which is a method's own where its paper states one, and else a recipe's.
LABEL_LOSS_SETTINGS = ("label_loss", "bce_sum", "bce_target_thresh")

ANOTHER_OBJECTIVE = "choose one that does without, such as objective.name=kd"
APPROXIMATELY = "set objective.approximate=true (--approximate), which spreads the rest evenly"


@checked
@dataclass(frozen=True)
class Distillation(Objective):
    """kd_weight * distillation + label_weight * label loss; a weight of 0 leaves its part out.

    Attributes:
        kd_weight, label_weight: weights of the two parts.
        kd_stop_epoch: epoch, counted from 0, from which on the distillation term has no weight and is only reported;
            None: never. Cho and Hariharan 2019, "On the Efficacy of Knowledge Distillation" (ESKD).
        label_loss: "ce", "bce" or "none".
        smoothing: label smoothing, 0..1.
        bce_sum: whether the binary cross-entropy is summed over the classes in place of timm's mean.
        bce_target_thresh: threshold above which the binary cross-entropy takes soft labels for 1, and the others for
            0; None: soft labels are taken as they are.
    """

    name: str = ""
    kd_weight: KdWeight = 1.0
    kd_stop_epoch: KdStopEpoch = None
    label_loss: LabelLossName = "ce"
    label_weight: LabelWeight = 1.0
    smoothing: Smoothing = 0.0
    bce_sum: BceSum = False
    bce_target_thresh: BceTargetThresh = None

    #: The settings that are 0 without a teacher.
    teacher_weights: ClassVar[tuple[str, ...]] = ("kd_weight",)
    #: The names of further losses, each of weight 1, in the order of `extras`.
    extra_parts: ClassVar[tuple[str, ...]] = ()
    #: Whether the distillation term needs the inputs of the student's classifier.
    needs_features: ClassVar[bool] = False
    #: Whether the distillation term relates the rows of a batch, and is no mean over them.
    relates_rows: ClassVar[bool] = False
    #: The smallest number of classes with which the distillation term has something to compare.
    fewest_classes: ClassVar[int] = 1

    def rules(self) -> Iterator[str]:
        """Yield a sentence for settings that do not go together."""
        if not self._distils and not self._has_label_loss:
            yield "The objective has no part left: give kd_weight or label_weight above 0."
        elif self.kd_stop_epoch is not None and not self._has_label_loss:
            yield (
                "objective.kd_stop_epoch leaves nothing to learn from, as there is no label loss: set "
                "objective.label_loss to ce or bce, or kd_stop_epoch to null."
            )

    @abstractmethod
    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the distillation term before its weight."""

    def needs_full(self) -> str:
        """Return `Needs.full` of the distillation term."""
        return ""

    @property
    def warmup_epochs(self) -> int:
        """The number of epochs in which the distillation term grows linearly to its weight; 1 for at once."""
        return 1

    def ramp(self, epoch: int) -> float:
        """Return the share of its weight that the distillation term has in an epoch, up to 1 at the warm-up's end."""
        return min((epoch + 1) / max(self.warmup_epochs, 1), 1.0)

    @property
    def term_parts(self) -> tuple[str, ...]:
        """The names of the losses that `terms` gives, in order."""
        return ("kd",)

    def terms(self, inputs: LossInputs) -> dict[str, tuple[float, Float[Tensor, ""]]]:
        """Compute the losses that `kd_stop_epoch` ends: name to weight and loss, the distillation term first."""
        return {"kd": (self.kd_weight * self.ramp(inputs.epoch), self.distil(inputs))}

    def extras(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Compute further losses, each of weight 1, in the order of `extra_parts`."""
        return {}

    @property
    def needs(self) -> Needs:
        """What the parts that have weight must be given."""
        labels = ""
        if self._has_label_loss or (self._distils and self.distils_by_label):
            changes = " and ".join(
                f"objective.{name}={format_setting(value)}" for name, value in self.without_labels.items()
            )
            labels = f"set {changes}" if changes else ANOTHER_OBJECTIVE
        return Needs(
            teacher=self._distils,
            full=self.needs_full() if self._distils else "",
            labels=labels,
            features=self._distils and self.needs_features,
            classes=self.fewest_classes if self._distils else 1,
            whole_batch=self._distils and self.relates_rows,
        )

    @property
    def without_labels(self) -> Mapping[str, str | float]:
        """The settings with which it learns where images have no label: none where it distils by label."""
        return {} if self._distils and self.distils_by_label else {"label_loss": "none"}

    @property
    def idle(self) -> tuple[str, ...]:
        """The names of settings that have no effect, given the values of the others."""
        idle = () if self._has_label_loss else ("smoothing",)
        return (*idle, "warmup_epochs") if self.warmup_epochs <= 1 else idle

    @property
    def label_loss_text(self) -> str:
        """The label loss and its weight as a summary names them."""
        names = {"ce": "cross-entropy", "bce": "binary cross-entropy", "none": "none"}
        return names[self.label_loss] + (f" of weight {self.label_weight:g}" if self.label_loss != "none" else "")

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that a call reports, in order."""
        distilled = self.term_parts * self._distils
        return distilled + ("label",) * self._has_label_loss + self.extra_parts * self._distils

    def without_teacher(self: D) -> D:
        """Return the label loss alone, with a weight of 1."""
        if self.label_loss == "none":
            raise ConfigError(
                "objective.label_loss is none, and --supervised has nothing else to learn from: set it to ce or bce."
            )
        changes: dict[str, Any] = dict.fromkeys(self.teacher_weights, 0.0)
        return dataclasses.replace(self, kd_stop_epoch=None, label_weight=1.0, **changes)

    def __call__(self, inputs: LossInputs) -> Losses:
        """Compute the loss of a batch: the weighted sum of the parts that have weight."""
        parts: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        if self._distils:
            stopped = self.kd_stop_epoch is not None and inputs.epoch >= self.kd_stop_epoch
            with torch.set_grad_enabled(torch.is_grad_enabled() and not stopped):
                terms = self.terms(inputs)
            for name, (weight, loss) in terms.items():
                parts[name] = loss
                if not stopped:
                    weighted.append(_times(weight, loss))
        if self._has_label_loss:
            parts["label"] = self._label_loss(inputs)
            weighted.append(_times(self.label_weight, parts["label"]))
        if self._distils:
            for name, loss in self.extras(inputs).items():
                parts[name] = loss
                weighted.append(loss)
        total = functools.reduce(torch.add, weighted)
        return Losses(total.to(torch.promote_types(total.dtype, torch.float32)), parts)

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


def _times(weight: float, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    # A product with 1 would change no bit and cost two operations, one of them in the backward pass.
    return loss if weight == 1 else weight * loss


@checked
@dataclass(frozen=True)
class SoftenedDistillation(Distillation):
    """A distillation term over probabilities that both sides soften by one temperature.

    Attributes:
        temperature: temperature of the distillation term, T > 0.
        approximate: whether `topk` targets are softened too, with their tail spread evenly.
    """

    temperature: Temperature = 1.0
    approximate: Approximate = False

    def needs_full(self) -> str:
        """Return advice where the temperature is not 1, as softening needs the order of classes within the tail."""
        if self.temperature == 1 or self.approximate:
            return ""
        return "set objective.temperature=1, or accept a tail spread evenly with --approximate"


def format_setting(value: object) -> str:
    """Return a setting's value as a user writes it: 1 for 1.0, [1, 2] for (1, 2)."""
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value)
