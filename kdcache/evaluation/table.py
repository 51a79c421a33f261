"""One model after the other on all data sets, beside a reference where one is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from kdcache.data.classes import require_same_classes
from kdcache.data.index import Index
from kdcache.errors import IdentityError
from kdcache.evaluation.options import DEFAULT_BINS
from kdcache.evaluation.predictions import MEMORY_LIMIT, Predictions, bytes_of_log_probs, predict
from kdcache.evaluation.report import Scores, compare, score_predictions, score_real
from kdcache.evaluation.scores import mean_or_nan
from kdcache.evaluation.scoring import Computing
from kdcache.models.card import ModelCard
from kdcache.models.network import Network
from kdcache.runtime.formatting import format_bytes, format_count


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set with the name that it was given by.

    Attributes:
        allowed: several right labels of each sample that is not lost; None without.
    """

    name: str
    index: Index
    allowed: tuple[frozenset[int], ...] | None = None


@dataclass(frozen=True, eq=False)
class ReferencePredictions:
    """What the reference predicts on one data set.

    Attributes:
        log_probs: of this process's share of the samples, float32 on the CPU; None where they are too many to keep.
    """

    predictions: Predictions
    log_probs: Float[Tensor, "m c"] | None


@dataclass(eq=False)
class Scorer:
    """Scores models, the reference first, on the same data sets.

    Attributes:
        reference: name of the model that the others are compared with; None for no comparison.
        bins: bins of the reliability diagram.
        seed: seed of the bootstrap.
        memory_limit: bytes of the reference's log-probabilities that this process keeps.
        notes: what was assumed or left out, in sentences; the progress is told of each.
    """

    data: Sequence[DataSet]
    computing: Computing
    reference: str | None = None
    bins: int = DEFAULT_BINS
    seed: int = 0
    memory_limit: int = MEMORY_LIMIT
    notes: list[str] = field(default_factory=list)
    _kept: dict[str, ReferencePredictions] = field(default_factory=dict)
    _card: ModelCard | None = None

    def score_model(self, name: str, network: Network, *, is_reference: bool = False) -> list[Scores]:
        """Return the scores of a model on each data set; those of the reference have to be asked for first.

        Raises:
            KdcacheError: data without labels or with other classes, or a model with other classes than the reference.
        """
        if is_reference:
            self._card = network.card
        elif self._card is not None:
            require_same_outputs(network.card, self._card, name, str(self.reference))
        return [self._score(name, network, data, is_reference) for data in self.data]

    def _score(self, name: str, network: Network, data: DataSet, is_reference: bool) -> Scores:
        card, index = network.card, data.index
        assumed = class_assumption(name, card, data.name, index)
        if assumed is not None:
            self.notes.append(assumed)
            self.computing.progress.say(assumed)
        beside = None if is_reference else self._kept.get(data.name)
        found, log_probs = predict(
            network,
            index,
            self.computing,
            name=name,
            keep=is_reference and self._has_room(name, data, card),
            reference=None if beside is None else beside.log_probs,
        )
        if is_reference:
            self._kept[data.name] = ReferencePredictions(found, log_probs)
        scores = score_predictions(
            found,
            index,
            model=name,
            data=data.name,
            class_names=index.class_names or card.class_names,
            num_classes=card.num_classes,
            bins=self.bins,
        )
        if found.invalid:
            self._warn(
                f"The logits of {name} are not finite for {format_count(found.invalid, 'image')} of {data.name}: these "
                "count as wrong, and NLL, ECE and AURC have no value. The weights are damaged, training diverged, or "
                "the precision is too low for them: try --precision fp32."
            )
        if data.allowed is not None:
            right, _ = score_real(found, data.allowed)
            scores = replace(scores, real=mean_or_nan(right), real_samples=len(right))
        if beside is None:
            return scores
        beside_it = compare(found, beside.predictions, name=str(self.reference), seed=self.seed, allowed=data.allowed)
        return replace(scores, comparison=beside_it)

    def _warn(self, line: str) -> None:
        self.notes.append(line)
        self.computing.progress.warn(line[:1].lower() + line[1:])

    def _has_room(self, name: str, data: DataSet, card: ModelCard) -> bool:
        """Return whether the reference's log-probabilities can be kept; note it where they cannot."""
        used = sum(4 * kept.log_probs.numel() for kept in self._kept.values() if kept.log_probs is not None)
        needed = bytes_of_log_probs(data.index, card.num_classes, self.computing)
        if used + needed <= self.memory_limit:
            return True
        self._warn(
            f"The KL divergence from {name} is left out on {data.name}: the log-probabilities of {name} would take "
            f"{format_bytes(needed)} of memory, and {format_bytes(self.memory_limit)} are kept at most. Run more "
            "processes with torchrun, or take a part of the data (`kdcache index --fraction`)."
        )
        return False


def require_same_outputs(model: ModelCard, reference: ModelCard, name: str, reference_name: str) -> None:
    """Raise IdentityError if two models have other classes, so that their predictions cannot be compared."""
    if model.num_classes != reference.num_classes:
        raise IdentityError(
            f"{name} has {model.num_classes:,} classes, and the reference {reference_name} {reference.num_classes:,}: "
            "give a reference with the classes of the model.",
            field="num_classes",
        )
    require_same_classes(model.class_names, reference.class_names, f"the reference {reference_name}")


def class_assumption(model: str, card: ModelCard, data: str, index: Index) -> str | None:
    """Return what is assumed of the order of classes, where model or data do not name them; None if both do."""
    if card.class_names is not None and index.class_names is not None:
        return None
    outputs, labels = f"outputs 0 to {card.num_classes - 1:,}", f"labels 0 to {index.num_classes - 1:,}"
    nameless = [name for name, names in ((model, card.class_names), (data, index.class_names)) if names is None]
    unnamed = (
        f"{nameless[0]} does not name its classes"
        if len(nameless) == 1
        else f"Neither {model} nor {data} names classes"
    )
    names = index.class_names or card.class_names
    example = f", so label 0 is {names[0]!r} and label {len(names) - 1:,} {names[-1]!r}" if names else ""
    return (
        f"{unnamed}: label N of the data is taken to be output N of the model ({labels}, {outputs}{example}). With "
        "another order of the classes the scores mean nothing."
    )
