"""An objective: a loss over a student's logits, a teacher's answers and labels, and what it needs of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.errors import UsageError


@runtime_checkable
class Answers(Protocol):
    """A teacher's answers to the rows of a batch, as `kdcache.targets` has them."""

    def log_probs(self, num_classes: int, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Log-probabilities on the device that the answers are on."""


class Losses(NamedTuple):
    """What an objective says of a batch: the loss to descend, and its parts before their weights."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Needs:
    """What an objective must be given.

    Attributes:
        teacher: a teacher's answers.
        full: every class of them as the teacher said it, not the likeliest few and a tail.
        labels: a label for every picture.
    """

    teacher: bool
    full: bool
    labels: bool


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

    def __call__(
        self,
        student_logits: Float[Tensor, "b c"],
        answers: Answers | None,
        labels: Int64[Tensor, "b 2"],
        weight: Float[Tensor, "b"],
    ) -> Losses:
        """The loss of a batch.

        Args:
            student_logits: of each row.
            answers: the teacher's to the same rows; None where none are needed.
            labels: each row's own label and its partner's, -1 for none.
            weight: each row's own share of the mix.
        """


def require(needs: Needs, *, targets: str | None, labelled: bool) -> None:
    """Refuse to train without what an objective needs.

    Args:
        needs: of the objective.
        targets: the kind of targets that are there ("topk", "full", ...); None for no teacher.
        labelled: whether every picture has a label in the student's own classes.

    Raises:
        UsageError: naming what is missing and what to do.
    """
    if needs.teacher and targets is None:
        raise UsageError(
            "The objective distils, and there is no teacher: give a cache or --online-teacher, or train with "
            "--supervised."
        )
    if needs.full and targets == "topk":
        raise UsageError(
            "The objective's temperature is not 1, and the cache holds the likeliest classes only, whose tail cannot "
            "be softened: set objective.temperature=1, or dump again with --targets full."
        )
    if needs.labels and not labelled:
        raise UsageError(
            "The objective has a label loss, and there are no labels in the student's classes: set "
            "objective.label_loss=none."
        )
