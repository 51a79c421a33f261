"""The base classes of objectives that compare features or feature maps in place of logits."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs, LossSpec, Needs
from kdcache.objectives.distillation import Distillation
from kdcache.objectives.kd import kd
from kdcache.objectives.settings import ComparedLayers, Temperature, TermWeight


@checked
@dataclass(frozen=True)
class BeyondLogits(Distillation):
    """kd_weight * its own term + vanilla_weight * vanilla distillation + label_weight * label loss.

    Attributes:
        vanilla_weight: weight of `kd` beside its own term; the common benchmark of these methods (Tian et al. 2020) has
            0, and 1 where it combines them.
        vanilla_temperature: temperature of `kd`, T > 0.
    """

    vanilla_weight: TermWeight = 0.0
    vanilla_temperature: Temperature = 4.0

    teacher_weights: ClassVar[tuple[str, ...]] = ("kd_weight", "vanilla_weight")

    def rules(self) -> Iterator[str]:
        """Yield a sentence for settings that do not go together, those of `Distillation` before its own."""
        if sentences := tuple(super().rules()):
            yield from sentences
        elif self.vanilla_weight and not self._distils:
            yield (
                "objective.vanilla_weight is set and objective.kd_weight is 0, which leaves vanilla distillation "
                "alone: choose objective.name=kd."
            )
        elif not self.vanilla_weight and not self._has_label_loss:
            yield (
                f"Without a label loss and with objective.vanilla_weight 0, nothing of {self.name} reaches the "
                "student's classifier, which would stay as it was drawn: set objective.vanilla_weight=1, or keep a "
                "label loss (objective.label_loss=ce)."
            )

    @property
    def without_labels(self) -> Mapping[str, str | float]:
        """The settings with which it learns where images have no label.

        Vanilla distillation is among them, as it trains the classifier, which the method's own term does not reach.
        """
        return {**super().without_labels, **({} if self.vanilla_weight else {"vanilla_weight": 1.0})}

    @property
    def idle(self) -> tuple[str, ...]:
        """The names of settings that have no effect: the temperature without vanilla distillation, among others."""
        return (*super().idle, *(() if self.vanilla_weight else ("vanilla_temperature",)))

    @property
    def term_parts(self) -> tuple[str, ...]:
        """The names of the method's own term, and of vanilla distillation where it has weight."""
        return ("kd", "vanilla") if self.vanilla_weight else ("kd",)

    def terms(self, inputs: LossInputs) -> dict[str, tuple[float, Float[Tensor, ""]]]:
        """Compute the method's own term, and vanilla distillation where it has weight."""
        terms = super().terms(inputs)
        if self.vanilla_weight:
            loss = kd(inputs.logits, inputs.teacher_log_probs, self.vanilla_temperature)
            terms["vanilla"] = (self.vanilla_weight, loss)
        return terms


@checked
@dataclass(frozen=True)
class FromFeatures(BeyondLogits):
    """The base class of objectives that relate the rows of a batch by the inputs of both classifiers, the features."""

    relates_rows = True

    @property
    def needs(self) -> Needs:
        """What it must be given: features of both models, among others."""
        return dataclasses.replace(super().needs, features=self._distils, teacher_features=self._distils)

    @staticmethod
    def features_of(inputs: LossInputs) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b t"]]:
        """Return the student's and the teacher's features of the rows of this process."""
        teacher = inputs.required_targets.features()
        if inputs.features is None:
            raise UsageError("This objective relates the student's features, and they are not given.")
        return inputs.features, teacher


@checked
@dataclass(frozen=True)
class FromMaps(BeyondLogits):
    """The base class of objectives that compare feature maps of the student with as many of the teacher.

    Attributes:
        student_layers, teacher_layers: layers whose maps are compared: "stages", "middle" (`kdcache.models.maps`), or
            numbers of layers as timm counts them (`feature_info`), ascending, negative ones from the end.
    """

    student_layers: ComparedLayers = "stages"
    teacher_layers: ComparedLayers = "stages"

    @property
    def needs(self) -> Needs:
        """What it must be given: feature maps of both models, among others."""
        return dataclasses.replace(
            super().needs,
            maps=self._distils,
            student_layers=self.student_layers,
            teacher_layers=self.teacher_layers,
        )

    def require_counterparts(self, spec: LossSpec) -> None:
        """Raise UsageError unless each of the student's maps has one of the teacher's to be compared with."""
        if not spec.maps or len(spec.maps) != len(spec.teacher_maps):
            raise UsageError(
                f"The student gives {len(spec.maps)} layers of feature maps and the teacher "
                f"{len(spec.teacher_maps)}, where each needs its counterpart: set objective.student_layers and "
                "objective.teacher_layers to as many of both, such as [-3, -2, -1]."
            )

    @staticmethod
    def maps_of(inputs: LossInputs) -> tuple[Sequence[Float[Tensor, "b _ _ _"]], Sequence[Float[Tensor, "b _ _ _"]]]:
        """Return the student's and the teacher's maps, from fine to coarse."""
        teacher = inputs.required_targets.maps()
        if len(inputs.maps) != len(teacher):
            raise UsageError("This objective compares feature maps, and those of the student are not given.")
        return inputs.maps, teacher
