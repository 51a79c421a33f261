"""An objective: a loss over a student's logits, a teacher's targets and labels, and what it needs of them."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.objectives.settings import LabelLoss, Layers

# Not typing.Self, which the type checks that the tests run with (beartype) cannot follow in a method.
T = TypeVar("T", bound="Objective")

#: Channels, height and width of a feature map.
MapShape = tuple[int, int, int]


@runtime_checkable
class TeacherTargets(Protocol):
    """A teacher's targets for the rows of a batch, as `kdcache.targets` has them."""

    def log_probs(self, *, num_classes: int, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Return log-probabilities on the device that the targets are on; always finite."""

    def features(self) -> Float[Tensor, "b d"]:
        """Return the inputs of the teacher's classifier, float32. Raises UsageError where they are not there."""

    def maps(self) -> list[Float[Tensor, "b _c _h _w"]]:
        """Return the teacher's feature maps, float32, fine to coarse. Raises UsageError where they are not there."""


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
        logits: logits of the student.
        labels: each row's own label and its partner's, -1 for none.
        weight: each row's own share of the mix, in 0..1; 1 where it is not mixed.
        targets: the teacher's targets of the same rows; None where there are none.
        features: inputs of the student's classifier; None where the objective does not need them.
        maps: the student's feature maps from fine to coarse; empty where the objective does not need them.
        past_probs: the student's own probabilities from an earlier round, mixed as the row is; a row sums to 1, to less
            where a part of it was not seen then, to 0 where nothing was. None where the objective does not need them.
        samples: positions in the index.
        aux_module: the module that `Objective.aux_module` made; None where it made none.
        mixed: a context for the layers of `aux_module`, in which they compute in the student's own precision.
        epoch: number of the current epoch, counted from 0.
        epochs: number of epochs of the training.
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
        """The teacher's targets. Raises UsageError where there are none."""
        if self.targets is None:
            raise UsageError("This objective distils, and there are no targets of a teacher.")
        return self.targets

    @property
    def teacher_log_probs(self) -> Float[Tensor, "b c"]:
        """The teacher's log-probabilities of every class. Raises UsageError where there is no teacher."""
        return self.required_targets.log_probs(num_classes=self.logits.shape[1])


class Losses(NamedTuple):
    """The losses of a batch: the total to descend, and its parts before their weights."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]


class LossSpec(NamedTuple):
    """The facts about data and models that an `aux_module` is built with.

    Attributes:
        num_classes: number of the student's classes.
        num_features: number of features that enter the student's classifier; None where the objective needs none.
        samples: number of samples of the data set.
        labels: label of each sample, -1 for none; None where labels are not known.
        teacher_features: number of features that enter the teacher's classifier; None where the objective needs none.
        maps, teacher_maps: shapes (channels, height, width) of feature maps from fine to coarse; empty where the
            objective needs none.

    Example:
        >>> spec = kdcache.LossSpec(
        ...     num_classes=10, num_features=None, samples=60_000, maps=((64, 8, 8),), teacher_maps=((256, 8, 8),)
        ... )
        >>> objective = kdcache.create_objective("fitnet", spec=spec)
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
    """The inputs and facts that an objective must be given.

    Attributes:
        teacher: whether it needs a teacher's targets.
        full: advice for the user who has no target of every class, such as "set objective.temperature=1"; empty where
            the likeliest classes and a tail suffice.
        labels: advice for the user who has images without a label; empty where labels are not needed.
        features: whether it needs the inputs of the student's classifier.
        teacher_features: whether it needs the inputs of the teacher's classifier.
        maps: whether it needs feature maps of both models.
        student_layers, teacher_layers: layers whose feature maps are meant.
        history: whether it needs the student's own earlier predictions.
        classes: smallest number of classes with which it has something to compare.
        whole_batch: whether the loss of a row depends on the other rows of the batch, as relations of rows do; where
            not, it is a mean over rows.
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
    whole_batch: bool = False


@dataclass(frozen=True)
class Objective(ABC):
    """A named loss with its settings: a frozen dataclass, whose fields are its section of a run's configuration.

    Callers read the properties below. Each of those with a default states a fact about an objective that has
    no setting for it; a dataclass that has one declares a field of the same name and type in its place.
    """

    #: What stands before a setting's name in messages.
    section: ClassVar[str] = "objective"

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that a recipe chooses the objective by."""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the objective must be given."""

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that a call reports, in order."""

    @abstractmethod
    def without_teacher(self: T) -> T:
        """Return what is left of the objective where there is no teacher.

        Raises:
            ConfigError: nothing is left.
        """

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Losses:
        """Compute the loss of a batch.

        Raises:
            UsageError: something that `needs` names is not given.
        """

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Create the module that is trained beside the student and never exported; None where there is none.

        Its parameters are trained by the student's optimiser, averaged over all processes; its state dict is kept in
        checkpoints.
        """
        return None

    @property
    def setting_names(self) -> tuple[str, ...]:
        """The names of the settings, in the order of the configuration."""
        return tuple(field.name for field in dataclasses.fields(self))

    @property
    def idle(self) -> tuple[str, ...]:
        """The names of settings that have no effect, given the values of the others."""
        return ()

    @property
    def distils_by_label(self) -> bool:
        """Whether the distillation term itself needs labels."""
        return False

    @property
    def without_labels(self) -> Mapping[str, str | float]:
        """The settings with which it learns where images have no label; empty where none would do."""
        return {}

    @property
    def label_loss(self) -> LabelLoss:
        """The loss on labels."""
        return "ce"

    @property
    def label_loss_text(self) -> str | None:
        """The label loss and its weight as a summary names them; None where there is no setting to choose them."""
        return None

    @property
    def kd_stop_epoch(self) -> int | None:
        """The epoch, counted from 0, from which on the distillation term has no weight; None for none."""
        return None

    @property
    def approximate(self) -> bool:
        """Whether `topk` targets are taken where every class is needed, with their tail spread evenly."""
        return False

    @property
    def far_from_topk(self) -> str:
        """What an evenly spread tail puts far off, as a clause; empty where nothing."""
        return ""

    def with_approximate(self: T, approximate: bool) -> T:
        """Return the objective with this value of `approximate`; itself where it has no such setting."""
        if "approximate" not in self.setting_names:
            return self
        changes: dict[str, Any] = {"approximate": approximate}
        return dataclasses.replace(self, **changes)


def require(needs: Needs, *, targets: TargetCapabilities | None, unlabelled: str, num_classes: int) -> None:
    """Refuse to train without what an objective needs.

    Args:
        needs: what the objective needs.
        targets: what the targets that are there can give; None for no teacher.
        unlabelled: empty where every image has a label in the student's own classes; else why not, as a clause.
        num_classes: number of the student's classes.

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
