"""An objective: a loss over a student's logits, a teacher's answers and labels, and what it needs of them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from kdcache.errors import UsageError

MapShape = tuple[int, int, int]
"""Channels, height and width of a feature map."""

Layers = tuple[int, ...] | Literal["stages", "middle"]
"""Whose feature maps: numbers of layers as timm counts them, or `kdcache.models.maps`'s choice of all stages or one."""


@runtime_checkable
class TeacherTargets(Protocol):
    """A teacher's answers to the rows of a batch, as `kdcache.targets` has them."""

    def log_probs(self, num_classes: int, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Log-probabilities on the device that the answers are on; always finite."""

    def features(self) -> Float[Tensor, "b d"]:
        """What entered the teacher's classifier, float32. Raises UsageError where it is not there."""

    def maps(self) -> list[Float[Tensor, "b _c _h _w"]]:
        """The teacher's feature maps, float32, from fine to coarse. Raises UsageError where they are not there."""


@runtime_checkable
class TargetCapabilities(Protocol):
    """What a teacher's targets can give, as `kdcache.targets.base.Capabilities` has it."""

    @property
    def description(self) -> str:
        """How a sentence names the targets, such as "full targets"."""

    @property
    def every_class(self) -> bool:
        """Whether they have every class as the teacher computed it."""

    @property
    def features(self) -> bool:
        """Whether they have what entered the teacher's classifier."""

    @property
    def maps(self) -> bool:
        """Whether they have the teacher's feature maps."""


@dataclass(frozen=True)
class LossInputs:
    """A batch as an objective sees it: b rows, c classes, everything on one device.

    Attributes:
        logits: the student's.
        labels: each row's own label and its partner's, -1 for none.
        weight: each row's own share of the mix, in 0..1; 1 where it is not mixed.
        targets: the teacher's to the same rows; None where there are none.
        features: what enters the student's classifier; None where the objective does not need them.
        maps: the student's feature maps from fine to coarse; empty where the objective does not need them.
        past_probs: the student's own probabilities from an earlier round, mixed as the row is; a row sums to 1, to less
            where a part of it was not seen then, to 0 where nothing was. None where the objective does not need them.
        samples: positions in the index.
        aux_module: what `Objective.aux_module` made. mixed: a context for its layers, in which they compute in the
            student's own precision.
        epoch: the running one, counted from 0; of `epochs` in all.
    """

    logits: Float[Tensor, "b c"]
    labels: Int64[Tensor, "b 2"]
    weight: Float[Tensor, "b"]
    targets: TeacherTargets | None = None
    features: Float[Tensor, "b f"] | None = None
    maps: tuple[Float[Tensor, "b _ _ _"], ...] = ()
    past_probs: Float[Tensor, "b c"] | None = None
    samples: Int64[Tensor, "b"] | None = None
    aux_module: nn.Module | None = None
    mixed: Callable[[], AbstractContextManager[object]] = nullcontext
    epoch: int = 0
    epochs: int = 1

    @property
    def required_targets(self) -> TeacherTargets:
        """The teacher's answers. Raises UsageError where there are none."""
        if self.targets is None:
            raise UsageError("This objective distils, and there are no targets of a teacher.")
        return self.targets

    @property
    def teacher_log_probs(self) -> Float[Tensor, "b c"]:
        """The teacher's log-probabilities of every class. Raises UsageError where there is no teacher."""
        return self.required_targets.log_probs(self.logits.shape[1])


class Losses(NamedTuple):
    """What an objective says of a batch: the loss to descend, and its parts before their weights."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]


class LossSpec(NamedTuple):
    """What a aux_module is built for.

    num_classes: of the student. num_features: that enter its classifier; None where the objective does not need them.
    samples: of the data set.
    labels: of each of them, -1 for none; None where they are not known.
    teacher_features: that enter the teacher's classifier; None where the objective does not need them.
    maps, teacher_maps: shapes of feature maps from fine to coarse; empty where the objective does not need them.
    """

    num_classes: int
    num_features: int | None
    samples: int
    labels: Int64[Tensor, "n"] | None = None
    teacher_features: int | None = None
    maps: tuple[MapShape, ...] = ()
    teacher_maps: tuple[MapShape, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What an objective must be given.

    Attributes:
        teacher: a teacher's answers.
        full: not empty where it needs every class of them as the teacher said it, rather than the likeliest few and a
            tail: what to do without them, such as "set objective.temperature=1".
        labels: not empty where it needs a label for every image: what to do without them.
        features: what enters the student's classifier.
        teacher_features: what enters the teacher's.
        maps: feature maps of both, from `student_layers` and `teacher_layers`.
        history: the student's own earlier predictions.
        classes: fewest with which it has something to compare.
    """

    teacher: bool
    full: str = ""
    labels: str = ""
    features: bool = False
    teacher_features: bool = False
    maps: bool = False
    student_layers: Layers = "stages"
    teacher_layers: Layers = "stages"
    history: bool = False
    classes: int = 1


@runtime_checkable
class Objective(Protocol):
    """A frozen value: a named loss with its parameters, which is also its section of a run's configuration."""

    @property
    def name(self) -> str:
        """The name that a recipe chooses it by."""

    @property
    def needs(self) -> Needs:
        """What it must be given."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that a call reports, in order."""

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """What is learnt beside the student and never exported, with fresh weights; None where there is nothing.

        Its parameters are trained by the student's optimiser, averaged over all processes; its state dict is kept in
        checkpoints.
        """

    def without_teacher(self) -> "Objective":
        """What is left of it where there is no teacher.

        Raises:
            ConfigError: nothing is.
        """

    def __call__(self, inputs: LossInputs) -> Losses:
        """The loss of a batch.

        Raises:
            UsageError: something that `needs` names is not given.
        """


def require(needs: Needs, *, targets: TargetCapabilities | None, unlabelled: str, num_classes: int) -> None:
    """Refuse to train without what an objective needs.

    Args:
        needs: of the objective.
        targets: what the targets that are there can give; None for no teacher.
        unlabelled: empty where every image has a label in the student's own classes; else why not, as a clause.
        num_classes: of the student.

    Raises:
        UsageError: naming what is missing and what to do.
    """
    if needs.teacher and targets is None:
        raise UsageError(
            "The objective distils, and there is no teacher: give a cache or --online-teacher, or train with "
            "--supervised."
        )
    if num_classes < needs.classes:
        raise UsageError(
            f"The objective has nothing to compare with fewer than {needs.classes} classes, and there are "
            f"{num_classes}: set objective.name=kd."
        )
    if needs.full and targets is not None and not targets.every_class:
        raise UsageError(
            "The objective needs the teacher's probability of every class, and the cache holds those of the likeliest "
            f"only: {needs.full}, or dump again with --targets full or embedding."
        )
    if needs.maps and targets is not None and not targets.maps:
        raise UsageError(
            "The objective needs the teacher's feature maps, which are too large to be kept: run the teacher with "
            "--online-teacher."
        )
    if needs.teacher_features and targets is not None and not targets.features:
        raise UsageError(
            f"The objective needs the teacher's features, and the cache holds {targets.description}: dump again with "
            "--targets embedding, or run the teacher with --online-teacher."
        )
    if needs.labels and unlabelled:
        raise UsageError(f"The objective needs a label for every image, and {unlabelled}: {needs.labels}.")
