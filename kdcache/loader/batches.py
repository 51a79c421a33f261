"""Batches of views in their order, with targets that are read from the cache, computed by a live teacher, or none."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from kdcache.cache.entry import Entry
from kdcache.cache.stream import stream_targets
from kdcache.data.index import Index
from kdcache.errors import CorruptError, UsageError
from kdcache.loader.cached_teachers import CachedTeachers
from kdcache.loader.live_teacher import LiveTeacher
from kdcache.loader.schedule import Schedule
from kdcache.loader.teacher_views import batches_covering, teacher_labels
from kdcache.objectives.labels import soft_labels
from kdcache.runtime.prefetch import shared
from kdcache.runtime.ranks import Ranks
from kdcache.runtime.transfer import to_device
from kdcache.targets.base import Targets
from kdcache.targets.mixture import MixedTargets
from kdcache.views.orders import OrdersAhead
from kdcache.views.stream import Views
from kdcache.views.viewset import RowIndices, RowRange, ViewSet

OpenStream = Callable[[Iterable[RowRange | RowIndices], int], Generator[Views, None, None]]
"""Renders rows at a size in pixels a side: `stream_views` over the run's data."""


@dataclass(frozen=True)
class Batch:
    """The rows of one training step of this process, b in number: images, labels and the teacher's targets.

    Rows 2j and 2j+1 are a pair: each was mixed with the other. The rows of a batch may be shuffled for the model, and
    a batch may be cut between pairs.

    Attributes:
        images: [b, 3, s, s], float32, mixed and normalised with the mean and standard deviation that the loader was
            given; a `Loader` without `normalise` gives them in 0..255.
        labels: [b, 2], each row's own label and its mixing partner's; -1 for none.
        mix_weight: [b], each row's own share of the mix, in 0..1; 1 where the row is not mixed.
        samples: [b], position of each row's sample in the index; always on the CPU.
        targets: what the cache holds of the teacher's outputs for these rows, on the device of the images; None
            without a teacher. `targets.log_probs(temperature=1)` has shape [b, c],
            `targets.features()` [b, d], `targets.label_log_prob()` [b, 2].
        index: of the data set, which knows the samples' keys; None for a batch that was made by hand.

    Example:
        >>> for batch in loader:
        ...     logits = model(batch.images)
        ...     loss = -(batch.soft_labels(10, smoothing=0.1) * logits.log_softmax(1)).sum(1).mean()
    """

    images: Float32[Tensor, "b 3 s s"]
    labels: Int64[Tensor, "b 2"]
    mix_weight: Float32[Tensor, "b"]
    samples: Int64[Tensor, "b"]
    targets: Targets | None
    index: Index | None = field(default=None, repr=False, compare=False)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of each row's sample, which identifies it whatever the shards.

        Raises:
            UsageError: the batch was made by hand, without an index.
        """
        if self.index is None:
            raise UsageError("This batch was made without an index, which holds the keys of samples: give it one.")
        return tuple(self.index.key(sample) for sample in self.samples.tolist())

    def __len__(self) -> int:
        """Number of rows b."""
        return len(self.samples)

    def soft_labels(self, num_classes: int, smoothing: float = 0.0) -> Float32[Tensor, "b c"]:
        """Return the mixed labels as probabilities: mix_weight y + (1 - mix_weight) y', as timm's mixup has them.

        Args:
            num_classes: c, number of classes.
            smoothing: share of label smoothing in 0..1, spread over all classes.

        Returns:
            [b, c], float32, on the device of the labels; each row sums to 1.

        Raises:
            UsageError: a row has no label, or a label is not among the classes.
        """
        self._require_labels(num_classes)
        return soft_labels(self.labels, self.mix_weight, num_classes, smoothing)

    def _require_labels(self, num_classes: int) -> None:
        # Looked up on the host: asking a tensor on a GPU would make every step wait for it. A row's partner is a row
        # of the batch as well.
        if self.index is None:
            own = self.labels[:, 0].cpu().numpy()
        else:
            own = np.asarray(self.index.label[self.samples.numpy()])
        if (own < 0).any():
            raise UsageError(
                f"{int((own < 0).sum())} of {len(own)} rows of this batch have no label, so there are no soft labels: "
                "use a loss that needs the teacher's targets alone."
            )
        if (own >= num_classes).any():
            raise UsageError(
                f"Label {int(own.max())} is not among the {num_classes} classes that soft labels were asked for: give "
                "the number of classes of the labels."
            )

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch with images, labels, mixing weights and targets on another device."""
        return replace(
            self,
            images=to_device(self.images, device),
            labels=to_device(self.labels, device),
            mix_weight=to_device(self.mix_weight, device),
            targets=None if self.targets is None else self.targets.to(device),
        )

    @classmethod
    def from_views(cls, views: Views, targets: Targets | None) -> "Batch":
        """Return the batch of some views and the targets for them."""
        rows = views.rows
        return cls(
            images=views.pixels,
            labels=torch.from_numpy(rows.labels),
            mix_weight=torch.from_numpy(rows.weight),
            samples=torch.from_numpy(rows.samples),
            targets=None if targets is None else targets.to(views.pixels.device),
        )


@dataclass(frozen=True)
class Steps:
    """This process's rows of each step of a schedule, from `first` on; may be walked through several times at once.

    instead: `ViewSet.without_lost`, where samples are lost.

    Orders of views that are seen again are computed ahead, in a thread that `close` ends.
    """

    schedule: Schedule
    first: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    instead: Callable[[RowIndices], RowIndices] | None = None
    _reused_orders: OrdersAhead = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_reused_orders", self.schedule.reused_orders())

    def __iter__(self) -> Iterator[RowIndices]:
        batches = self.schedule.batches(self.first, self.ranks.rank, self.ranks.world_size, self._reused_orders)
        return batches if self.instead is None else map(self.instead, batches)

    def preparing(self, view_set: ViewSet, walk: Iterable[RowIndices] | None = None) -> Iterator[RowIndices]:
        """The same, for the one who asks `view_set` for each step's rows before the next: it prepares its orders.

        walk: these steps, where somebody else makes them.
        """
        for step, picks in enumerate(self if walk is None else walk, self.first):
            yield picks
            upcoming = self.schedule.upcoming_view(step)
            if upcoming is not None:
                view_set.prepare_order(upcoming)

    def close(self) -> None:
        """End the thread that computes an order ahead, if there is one."""
        self._reused_orders.close()


def supervised_batches(
    steps: Steps, open_stream: OpenStream, size: int, view_set: ViewSet
) -> Generator[Batch, None, None]:
    """Views without answers."""
    with closing(open_stream(steps.preparing(view_set), size)) as stream:
        for views in stream:
            yield Batch.from_views(views, None)


def cached_batches(
    steps: Steps, open_stream: OpenStream, size: int, stored: CachedTeachers, view_set: ViewSet
) -> Generator[Batch, None, None]:
    """Views with the answers that the cache holds for them, of one teacher or mixed of several.

    Raises:
        CorruptError: the answers are not to these rows, or are damaged.
    """
    # Answers are read far ahead of the pixels, perhaps of several visits of a small data set: each step is made once.
    given, shown, *read = shared(steps, 2 + len(stored.entries))
    with ExitStack() as stack:
        stream = stack.enter_context(closing(open_stream(steps.preparing(view_set, shown), size)))
        answers = [
            stack.enter_context(closing(stream_targets(entry, ((picks.view, picks.row) for picks in walk))))
            for entry, walk in zip(stored.entries, read, strict=True)
        ]
        for picks, views, *said in zip(given, stream, *answers, strict=True):
            parts = [
                _labelled(targets, views, entry, picks) for targets, entry in zip(said, stored.entries, strict=True)
            ]
            targets = parts[0] if len(parts) == 1 else MixedTargets(tuple(parts), stored.shares)
            yield Batch.from_views(views, targets)


def _labelled(targets: Targets, views: Views, entry: Entry, picks: RowIndices) -> Targets:
    """Answers with the labels that their rows had when they were stored: none in label space `none`."""
    labels = teacher_labels(views, entry.identity.label_space)
    try:
        return targets.with_labels(labels)
    except CorruptError as error:
        raise CorruptError(
            f"Answers of teacher '{entry.identity.name}' to rows {picks.row.min()} to {picks.row.max()} of view "
            f"{picks.view[0]} do not fit: {error} Check the cache with kdcache verify."
        ) from error


@dataclass(frozen=True)
class _Held:
    """Answered rows start..stop-1 of a view that the student has not come to yet."""

    span: RowRange
    pixels: Float32[Tensor, "b 3 s s"]
    targets: Targets


def live_batches(
    steps: Steps, open_stream: OpenStream, size: int, live: LiveTeacher, view_set: ViewSet
) -> Generator[Batch, None, None]:
    """Views with answers computed now; where teacher and student want the same image size, it is rendered once.

    Where one process walks, each epoch, through a view of its own, the teacher works in its own batches, and its
    answers wait until the student's rows reach them: they are bit for bit those that `dump-logits` would have stored
    on this machine.
    Otherwise, and where samples are lost, it answers each step's rows, padded to its batch shape, and its last bits can
    differ.
    """
    if steps.schedule.walks_in_order and steps.ranks.world_size == 1 and steps.instead is None:
        return _in_dump_batches(steps, open_stream, size, live, view_set)
    return _in_own_batches(steps, open_stream, size, live, view_set)


def _in_dump_batches(
    steps: Steps, open_stream: OpenStream, size: int, live: LiveTeacher, view_set: ViewSet
) -> Generator[Batch, None, None]:
    shared = live.teacher.size == size
    with (
        closing(
            open_stream(_dump_batches(steps.preparing(view_set), len(view_set), live), live.teacher.size)
        ) as teacher_stream,
        closing(open_stream(() if shared else steps, size)) as student_stream,
    ):
        answered = zip(_dump_batches(steps, len(view_set), live), teacher_stream, strict=True)
        held: list[_Held] = []
        for span in map(_span, steps):
            held = [part for part in held if part.span.view == span.view and part.span.stop > span.start]
            while not held or held[-1].span.stop < span.stop:
                batch, views = next(answered)
                targets = live.compute_targets(views)
                held.append(_Held(batch, views.pixels, targets))
            pieces = [(part, _within(part.span, span)) for part in held]
            pieces = [(part, rows) for part, rows in pieces if rows.start < rows.stop]
            targets = type(held[0].targets).concat([part.targets[rows] for part, rows in pieces])
            if shared:
                pixels = torch.cat([part.pixels[rows] for part, rows in pieces])
                student_views = Views(view_set.rows(span), pixels)
            else:
                student_views = next(student_stream)
            yield Batch.from_views(student_views, targets)


def _in_own_batches(
    steps: Steps, open_stream: OpenStream, size: int, live: LiveTeacher, view_set: ViewSet
) -> Generator[Batch, None, None]:
    shared = live.teacher.size == size
    with (
        closing(open_stream(steps.preparing(view_set), live.teacher.size)) as teacher_stream,
        closing(open_stream(() if shared else steps, size)) as student_stream,
    ):
        for views in teacher_stream:
            targets = live.compute_targets(views)
            student_views = views if shared else next(student_stream)
            yield Batch.from_views(student_views, targets)


def _span(picks: RowIndices) -> RowRange:
    """Rows that follow each other in one view."""
    return RowRange(int(picks.view[0]), int(picks.row[0]), int(picks.row[-1]) + 1)


def _dump_batches(steps: Iterable[RowIndices], samples: int, live: LiveTeacher) -> Iterator[RowRange]:
    """Each of the teacher's batches that holds a row of `steps`, once, in order."""
    last: RowRange | None = None
    for span in map(_span, steps):
        for batch in batches_covering(
            span, samples=samples, block_rows=live.block_rows, batch_size=live.teacher.batch_size
        ):
            if last is None or batch > last:
                last = batch
                yield batch


def _within(part: RowRange, span: RowRange) -> slice:
    """The rows of `part`, counted from its start, that lie in `span`."""
    return slice(max(span.start - part.start, 0), min(span.stop, part.stop) - part.start)
