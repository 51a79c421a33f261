"""The interfaces of every kind of targets: the values themselves (`Targets`) and their storage (`TargetCodec`).

A `TargetCodec` selects what it needs of a batch of teacher outputs, encodes consecutive rows into plain arrays of a
fixed shape (one chunk), and decodes them again. It knows nothing of files; the cache knows nothing of probabilities.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kdcache.errors import CorruptError, ModelError, UsageError
from kdcache.runtime.python_words import in_python_words

T = TypeVar("T", bound="Targets")

ReadClassifier = Callable[[], tuple[Float[Tensor, "c d"], Float[Tensor, "c"]]]
"""Returns weights and biases of a teacher's classifier; raises ModelError where that is not one linear layer."""

#: The uncompressed bytes that one chunk of one array may have.
MAX_CHUNK_BYTES = 8 * 2**20

#: And those that one file of several chunks may have: a writer holds them compressed. Of 21,841 classes in float32 a
#: view of 1.28 million samples has 79 files then.
MAX_FILE_BYTES = 2 * 2**30

#: The uncompressed bytes that a table of a codec may have.
MAX_TABLE_BYTES = 256 * 2**20

#: How far the probabilities of a row may sum from 1 (half precision teachers, 21,841 classes).
SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class ArraySpec:
    """One array of a chunk, as it is handed to the store.

    `shape` is the shape of one chunk and `axis` the direction in which the chunks of a view follow each
    other. `shuffle` says how the bytes are rearranged before compression, and `effort` how hard to compress
    (1 to 9).
    """

    dtype: str
    shape: tuple[int, ...]
    axis: int = 0
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"] = "noshuffle"
    effort: int = 9

    @property
    def nbytes(self) -> int:
        """Uncompressed bytes of one chunk."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Capabilities:
    """What targets can give to an objective.

    Attributes:
        description: how a sentence names the targets, such as "full targets" or "the live teacher".
        every_class: whether they have every class as the teacher computed it, and not the likeliest and a tail only.
        features: whether they have what entered the teacher's classifier.
        maps: whether they have the teacher's feature maps.
    """

    description: str
    every_class: bool
    features: bool = False
    maps: bool = False


class Targets(ABC):
    """What a loss learns from: a teacher's targets of some rows, decoded.

    Those that are read from a cache have no labels until `with_labels`.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def __getitem__(self: T, rows: slice) -> T:
        """Return some consecutive rows (no step)."""

    @abstractmethod
    def take(self: T, rows: Int64[Tensor, " n"]) -> T:
        """Return the rows at these positions, in this order; a position may come more than once."""

    @abstractmethod
    def with_labels(self: T, labels: Int64[Tensor, "b 2"]) -> T:
        """Return the same targets with each row's own label and its partner's, -1 where there is none.

        They must be those that `TargetCodec.select` was given: CorruptError where the targets show that they are not.
        """

    @abstractmethod
    def to(self: T, device: torch.device | str) -> T:
        """Return the same targets on another device."""

    @classmethod
    @abstractmethod
    def concat(cls: type[T], parts: Sequence[T]) -> T:
        """Concatenate targets (at least one), in this order."""

    @abstractmethod
    def log_probs(self, *, num_classes: int | None = None, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Return log-probabilities of every class, float32, built where the targets lie; always finite.

        Args:
            num_classes: number of classes that the caller expects; None for that of the targets.
            temperature: T > 0.

        Both go by their names, so that neither is taken for the other. Raises UsageError where the targets cannot give
        them at this temperature or number of classes, or need labels first.
        """

    @abstractmethod
    def label_log_prob(self) -> Float[Tensor, "b 2"]:
        """Return log-probabilities of a row's own label and of its partner's; NaN where there is no such label.

        Raises UsageError where the targets have no labels yet.
        """

    @in_python_words()
    def features(self) -> Float[Tensor, "b d"]:
        """Return what entered the teacher's classifier, float32. Raises UsageError where it was not kept."""
        raise UsageError(
            "What entered the teacher's classifier is not among these targets: dump again with --targets embedding, "
            "or train with --online-teacher."
        )

    @in_python_words()
    def maps(self) -> list[Float[Tensor, "b _c _h _w"]]:
        """Return the teacher's feature maps, float32, from fine to coarse. Raises UsageError where there are none."""
        raise UsageError(
            "The teacher's feature maps are not among these targets: they are too large to keep, so train with "
            "--online-teacher."
        )


class TargetCodec(ABC):
    """How one kind of targets is selected, encoded and decoded; a frozen value."""

    kind: str
    num_classes: int

    capabilities: ClassVar[Capabilities]
    """What targets of this kind can give to an objective."""

    table_names: ClassVar[frozenset[str]] = frozenset()
    """The names of `table_specs`, which are known before there is a codec."""

    needs_features: ClassVar[bool] = False
    """Whether `select` must be given what entered the teacher's classifier."""

    fixed_tables: ClassVar[bool] = False
    """Whether its tables follow from the teacher alone, so that no others will do in their place."""

    @property
    def kept_features(self) -> int | None:
        """Number of features of an image that targets of this kind keep; None for kinds that keep none."""
        return None

    @classmethod
    @abstractmethod
    def for_teacher(cls, num_classes: int, classifier: ReadClassifier, **options: Any) -> "TargetCodec":
        """Return the codec of a teacher; options that are left out have the kind's defaults.

        Args:
            num_classes: of the teacher.
            classifier: called by kinds that store the classifier, and by no others.
            options: fields of the codec.

        Raises:
            UsageError: a value that makes no sense, or a classifier that is too large for a cache.
            ModelError: as `classifier` does.
        """

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Return everything that changes what is stored, as plain JSON values; `create_codec` takes them back."""

    def select(
        self,
        log_probs: Float[Tensor, "b c"],
        labels: Int64[Tensor, "b 2"],
        features: Float[Tensor, "b d"] | None = None,
    ) -> Targets:
        """Return what is kept of a batch of teacher outputs, before quantisation, on the host.

        `labels` are each row's own label and its mixing partner's, -1 where there is none; `features` what entered
        the teacher's classifier, for codecs with `needs_features`. Raises ModelError
        where `log_probs` are no log-probabilities, UsageError where a label is not among the classes.
        """
        self.check_outputs(log_probs, labels)
        return self.keep(log_probs, labels, features)

    @abstractmethod
    def keep(
        self,
        log_probs: Float[Tensor, "b c"],
        labels: Int64[Tensor, "b 2"],
        features: Float[Tensor, "b d"] | None = None,
    ) -> Targets:
        """Return what `select` does, of outputs that `check_outputs` has let pass."""

    @abstractmethod
    def arrays(self, rows: int) -> dict[str, ArraySpec]:
        """Return the arrays of one chunk of `rows` rows, by name."""

    @abstractmethod
    def encode(self, targets: Targets, rows: int) -> dict[str, np.ndarray]:
        """Return the arrays of one chunk: `targets` (at most `rows` rows), then zeros."""

    @abstractmethod
    def decode(self, arrays: Mapping[str, np.ndarray], count: int) -> Targets:
        """Return the first `count` rows of a chunk, without labels.

        Raises CorruptError where the arrays contradict themselves.
        """

    def rows_of(self, arrays: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the arrays of some consecutive rows of a chunk, which `decode` takes like a chunk of their own.

        As it stands here, every array has as many numbers for one row as for another.
        """
        found = {}
        for name, spec in self.arrays(2).items():
            each = spec.shape[spec.axis] // 2
            found[name] = arrays[name][(*[slice(None)] * spec.axis, slice(start * each, stop * each))]
        return found

    def table_specs(self) -> dict[str, ArraySpec]:
        """Return the tables that this kind may have, each stored once for all views as one chunk; none by default.

        The parameters hold a table's checksum under its name.
        """
        return {}

    def tables(self) -> dict[str, np.ndarray]:
        """Return the tables that this codec has."""
        return {}

    def with_tables(self, tables: Mapping[str, np.ndarray]) -> "TargetCodec":
        """Return the same codec with these tables and no others. Raises CorruptError where one makes no sense."""
        return self

    def chunk_rows(self, block_rows: int) -> int:
        """Return the rows of a chunk: `block_rows` halved until no array has more than `MAX_CHUNK_BYTES`."""
        return self._rows_within(MAX_CHUNK_BYTES, block_rows)

    def file_rows(self, block_rows: int) -> int:
        """Return the rows of a file: `block_rows` halved until no array has more than `MAX_FILE_BYTES`."""
        return self._rows_within(MAX_FILE_BYTES, block_rows)

    def _rows_within(self, limit: int, block_rows: int) -> int:
        rows = block_rows
        while rows % 2 == 0 and max(spec.nbytes for spec in self.arrays(rows).values()) > limit:
            rows //= 2
        return rows

    def identity(self) -> dict[str, Any]:
        """Return the kind and its parameters, as they enter a teacher's identity."""
        return {"kind": self.kind, **self.parameters()}

    def check_outputs(
        self, log_probs: Float[Tensor, "b c"], labels: Int64[Tensor, "b 2"], is_sound: Bool[Tensor, ""] | None = None
    ) -> None:
        """Raise an error unless `select` was given log-probabilities and labels of this many classes.

        is_sound: what `are_log_probs` says of `log_probs`; None if that was not computed yet.
        """
        classes = log_probs.shape[1]
        if classes != self.num_classes:
            raise ModelError(f"The teacher's output has {classes} classes where {self.num_classes} were expected.")
        if not bool(are_log_probs(log_probs) if is_sound is None else is_sound):
            raise ModelError(
                "The teacher's outputs are not log-probabilities: they hold NaN or infinity, or do not sum to 1. "
                "Use --precision fp32 or bf16, and check the weights."
            )
        if bool((labels >= classes).any()):
            raise UsageError(
                f"Label {int(labels.max())} is not among the teacher's {classes} classes. "
                "Use a teacher of the data set's classes, or --label-space none to ignore the labels."
            )


def are_log_probs(log_probs: Float[Tensor, "b c"]) -> Bool[Tensor, ""]:
    """Return whether every row has log-probabilities that sum to 1, on their device: the host does not wait for it."""
    off = torch.logsumexp(log_probs, 1).abs()
    # NaN compares false, so that it is refused as well.
    return (off < SUM_TOLERANCE).all() & (log_probs > -torch.inf).all()


def check_slice(rows: slice, length: int) -> tuple[int, int]:
    """Start and stop of a slice of consecutive rows."""
    start, stop, step = rows.indices(length)
    if step != 1:
        raise IndexError("targets are sliced as consecutive rows")
    return start, max(start, stop)


def check_label_range(labels: Int64[Tensor, "b 2"], num_classes: int) -> None:
    """Raise CorruptError where a label is none of the classes of stored targets."""
    if len(labels) and int(labels.max()) >= num_classes:
        wrong = (labels >= num_classes).any(1).nonzero()
        row = int(wrong[0])
        raise CorruptError(
            f"{len(wrong)} rows (the first is {row}) have labels that the stored targets do not know, "
            f"such as {labels[row].tolist()}: there are {num_classes} classes."
        )


def concat_labels(parts: Sequence[Int64[Tensor, "_ 2"] | None]) -> Int64[Tensor, "b 2"] | None:
    """Concatenate the labels of several targets; None where any has none."""
    found = [part for part in parts if part is not None]
    return torch.cat(found) if len(found) == len(parts) else None


def require_labels(labels: Int64[Tensor, "b 2"] | None) -> Int64[Tensor, "b 2"]:
    """Return the labels. Raises UsageError where there are none yet."""
    if labels is None:
        raise UsageError("These targets were read without their labels, which are needed here: use with_labels first.")
    return labels


def check_classes(stored: int, wanted: int | None) -> None:
    """Raise UsageError where targets are asked for another number of classes than they have."""
    if wanted is not None and stored != wanted:
        raise UsageError(
            f"The teacher's targets have {stored} classes, and {wanted} were asked for. "
            "Train a student of as many classes, or use another teacher's targets."
        )


def check_temperature(temperature: float) -> None:
    """Raise UsageError for a temperature that no probabilities have."""
    if not 0 < temperature < float("inf"):
        raise UsageError(f"temperature is {temperature:g}: give a number above 0.")
