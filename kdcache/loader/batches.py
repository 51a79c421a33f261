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
from kdcache.loader.following import AwaitedBlocks
from kdcache.loader.live_teacher import LiveTeacher, OutputChecks
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
    a batch may be cut between pairs, both with `take`; the objectives "cc" and "crd" want the rows in the loader's
    order.

    Attributes:
        images: pixels [b, 3, s, s], or [b, 1, s, s] for a grey student, float32, mixed and normalised with the mean and
            standard deviation that the loader was given; a `Loader` without `normalise` gives them in 0..255.
        labels: classes [b, 2], each row's own label and its mixing partner's; -1 for none.
        mix_weight: share [b] of each row's own image in the mix, in 0..1; 1 where the row is not mixed.
        samples: position [b] of each row's sample in the index; always on the CPU.
        targets: targets of these rows, on the device of the images; None without a teacher.
            `targets.log_probs(temperature=1)` has shape [b, c], `targets.features()` [b, d], and
            `targets.label_log_prob()` [b, 2], in nats, NaN where a row has no label or partner. Each raises UsageError
            where the kind of targets cannot give it.
        index: index of the data set, which holds the keys of the samples; None for a batch that was made by hand.

    Example:
        >>> for batch in loader:
        ...     logits = model(batch.images)
        ...     loss = -(batch.soft_labels(10, smoothing=0.1) * logits.log_softmax(1)).sum(1).mean()
    """

    images: Float32[Tensor, "b _ s s"]
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

    def __repr__(self) -> str:
        """Name what it holds, in a line: no pixels."""
        images = f"images {list(self.images.shape)} on {self.images.device}"
        targets = "no targets" if self.targets is None else type(self.targets).__name__
        return f"Batch({len(self)} rows, {images}, {targets})"

    def take(self, rows: Int64[Tensor, " n"]) -> "Batch":
        """Return the batch of the rows at these positions, n in number and in this order, on any device.

        Example:
            >>> first_half = batch.take(torch.arange(len(batch) // 2))
        """
        here = rows.to(self.images.device)
        return replace(
            self,
            images=self.images[here],
            labels=self.labels[here],
            mix_weight=self.mix_weight[here],
            samples=self.samples[rows.to(self.samples.device)],
            targets=None if self.targets is None else self.targets.take(here),
        )

    def soft_labels(self, num_classes: int, smoothing: float = 0.0) -> Float32[Tensor, "b c"]:
        """Return the mixed labels as probabilities: mix_weight y + (1 - mix_weight) y', as timm's mixup has them.

        Args:
            num_classes: c, number of classes.
            smoothing: share of label smoothing in 0..1, spread over all classes.

        Returns:
            [b, c], float32, on the device of the labels; each row sums to 1.

        Raises:
            UsageError: a row has no label, a label is not among the classes, or smoothing lies outside of 0..1.
        """
        if not 0 <= smoothing <= 1:
            raise UsageError(f"smoothing is {smoothing}: give a share from 0 to 1.")
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


def _batch_of(views: Views, targets: Targets | None) -> Batch:
    """Return the batch of some views and the targets for them."""
    rows = views.rows
    return Batch(
        images=views.pixels,
        labels=torch.from_numpy(rows.labels),
        mix_weight=torch.from_numpy(rows.weight),
        samples=torch.from_numpy(rows.samples),
        targets=None if targets is None else targets.to(views.pixels.device),
    )


@dataclass(frozen=True)
class Steps:
    """The rows of this process in each step of a schedule; several iterators can run at the same time.

    Orders of views that are seen again are computed ahead, in a thread that `close` ends.

    Attributes:
        schedule: schedule of the training.
        first: first step, counted from the start of the training.
        ranks: rank of this process and number of processes.
        replace_lost: function that replaces the pairs of lost samples (`ViewSet.without_lost`); None where no sample
            is lost.
        reused_orders: orders of pairs of the schedule, the first of which may be computed already; None for new ones.
    """

    schedule: Schedule
    first: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    replace_lost: Callable[[RowIndices], RowIndices] | None = None
    reused_orders: OrdersAhead | None = field(default=None, repr=False, compare=False)
    _orders: OrdersAhead = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        orders = self.schedule.reused_orders() if self.reused_orders is None else self.reused_orders.fork()
        object.__setattr__(self, "_orders", orders)

    def __iter__(self) -> Iterator[RowIndices]:
        batches = self.schedule.batches(self.first, self.ranks.rank, self.ranks.world_size, self._orders)
        return batches if self.replace_lost is None else map(self.replace_lost, batches)

    def preparing(self, view_set: ViewSet, iterator: Iterable[RowIndices] | None = None) -> Iterator[RowIndices]:
        """Yield the rows of each step, and let `view_set` compute the order of an upcoming view ahead.

        Args:
            view_set: view set that is asked for the rows of each step before the next step is taken.
            iterator: rows of these same steps, where one iteration over them is shared; None for a new one.
        """
        for step, rows in enumerate(self if iterator is None else iterator, self.first):
            yield rows
            upcoming = self.schedule.upcoming_view(step)
            if upcoming is not None:
                view_set.prepare_order(upcoming)

    def close(self) -> None:
        """End the thread that computes an order ahead, if there is one."""
        self._orders.close()


def supervised_batches(
    steps: Steps, open_stream: OpenStream, size: int, view_set: ViewSet
) -> Generator[Batch, None, None]:
    """Yield the batches of all steps with labels, without targets."""
    with closing(open_stream(steps.preparing(view_set), size)) as stream:
        for views in stream:
            yield _batch_of(views, None)


def cached_batches(
    steps: Steps,
    open_stream: OpenStream,
    size: int,
    stored: CachedTeachers,
    view_set: ViewSet,
    awaited: AwaitedBlocks | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of all steps with targets from the cache, of one teacher or mixed of several.

    Args:
        awaited: waits for blocks that a dump elsewhere is still to add; None where all have to be there.

    Raises:
        CorruptError: the targets belong to other rows, or are damaged.
    """
    # The rows of each step are computed once and shared by all readers, because targets are read far ahead of the
    # pixels: in a small data set, perhaps by several visits.
    of_batches, of_images, *of_entries = shared(steps, 2 + len(stored.entries))
    with ExitStack() as stack:
        views_stream = stack.enter_context(closing(open_stream(steps.preparing(view_set, of_images), size)))
        target_streams = [
            stack.enter_context(
                closing(
                    stream_targets(
                        entry,
                        ((rows.view, rows.row) for rows in iterator),
                        read=entry.read_chunk if awaited is None else awaited.read_with(entry),
                    )
                )
            )
            for entry, iterator in zip(stored.entries, of_entries, strict=True)
        ]
        for rows, views, *found in zip(of_batches, views_stream, *target_streams, strict=True):
            parts = [
                _with_labels(targets, views, entry, rows) for targets, entry in zip(found, stored.entries, strict=True)
            ]
            targets = parts[0] if len(parts) == 1 else MixedTargets(tuple(parts), stored.shares)
            yield _batch_of(views, targets)


def _with_labels(targets: Targets, views: Views, entry: Entry, rows: RowIndices) -> Targets:
    """Return the targets with the labels that their rows had when they were stored: none in label space `none`."""
    labels = teacher_labels(views, entry.identity.label_space)
    try:
        return targets.with_labels(labels)
    except CorruptError as error:
        raise CorruptError(
            f"Targets of teacher '{entry.identity.name}' for rows {rows.row.min()} to {rows.row.max()} of view "
            f"{rows.view[0]} do not fit: {error} Check the cache with kdcache verify."
        ) from error


@dataclass(frozen=True)
class _BufferedBatch:
    """A batch of the teacher whose rows the student has not all taken yet, with its images and targets."""

    rows: RowRange
    pixels: Float32[Tensor, "b 3 s s"]
    targets: Targets


def live_batches(
    steps: Steps, open_stream: OpenStream, size: int, live: LiveTeacher, view_set: ViewSet
) -> Generator[Batch, None, None]:
    """Yield the batches of all steps with targets that the teacher computes now.

    Where teacher and student take images of the same size, they are rendered once.

    Where a single process goes through a new view in each epoch, the teacher works in the batches of a dump, and its
    targets are kept until the student takes their rows: they are bit for bit those that `dump-logits` would have stored
    on this machine. Otherwise, and where samples are lost, the teacher computes the rows of each step, padded to its
    batch shape, and the last bits can differ.
    """
    if steps.schedule.walks_in_order and steps.ranks.world_size == 1 and steps.replace_lost is None:
        return _in_dump_batches(steps, open_stream, size, live, view_set)
    return _in_own_batches(steps, open_stream, size, live, view_set)


def _in_dump_batches(
    steps: Steps, open_stream: OpenStream, size: int, live: LiveTeacher, view_set: ViewSet
) -> Generator[Batch, None, None]:
    is_rendered_once = live.teacher.size == size
    with (
        closing(
            open_stream(_dump_batches(steps.preparing(view_set), len(view_set), live), live.teacher.size)
        ) as teacher_stream,
        closing(open_stream(() if is_rendered_once else steps, size)) as student_stream,
    ):
        computed = zip(_dump_batches(steps, len(view_set), live), teacher_stream, strict=True)
        kept: list[_BufferedBatch] = []
        checks = OutputChecks()
        for step in map(_row_range, steps):
            kept = [batch for batch in kept if batch.rows.view == step.view and batch.rows.stop > step.start]
            while not kept or kept[-1].rows.stop < step.stop:
                rows, views = next(computed)
                kept.append(_BufferedBatch(rows, views.pixels, live.compute_targets(views, checks)))
            parts = [(batch, _overlap(batch.rows, step)) for batch in kept]
            parts = [(batch, rows) for batch, rows in parts if rows.start < rows.stop]
            targets = type(kept[0].targets).concat([batch.targets[rows] for batch, rows in parts])
            if is_rendered_once:
                pixels = torch.cat([batch.pixels[rows] for batch, rows in parts])
                student_views = Views(view_set.rows(step), pixels)
            else:
                student_views = next(student_stream)
            yield _batch_of(student_views, targets)
        checks.finish()


def _in_own_batches(
    steps: Steps, open_stream: OpenStream, size: int, live: LiveTeacher, view_set: ViewSet
) -> Generator[Batch, None, None]:
    is_rendered_once = live.teacher.size == size
    with (
        closing(open_stream(steps.preparing(view_set), live.teacher.size)) as teacher_stream,
        closing(open_stream(() if is_rendered_once else steps, size)) as student_stream,
    ):
        checks = OutputChecks()
        for views in teacher_stream:
            targets = live.compute_targets(views, checks)
            student_views = views if is_rendered_once else next(student_stream)
            yield _batch_of(student_views, targets)
        checks.finish()


def _row_range(rows: RowIndices) -> RowRange:
    """Return the range of rows that follow each other in one view."""
    return RowRange(int(rows.view[0]), int(rows.row[0]), int(rows.row[-1]) + 1)


def _dump_batches(steps: Iterable[RowIndices], samples: int, live: LiveTeacher) -> Iterator[RowRange]:
    """Yield each batch of a dump that holds a row of `steps`, once, in row order."""
    last: RowRange | None = None
    for step in map(_row_range, steps):
        for batch in batches_covering(
            step, samples=samples, block_rows=live.block_rows, batch_size=live.teacher.batch_size
        ):
            if last is None or batch > last:
                last = batch
                yield batch


def _overlap(batch: RowRange, step: RowRange) -> slice:
    """Return the rows of `batch`, counted from its start, that lie in `step`."""
    return slice(max(step.start - batch.start, 0), min(step.stop, batch.stop) - batch.start)
