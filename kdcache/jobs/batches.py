"""What a student is fed: views in their order, and the teacher's answers: from the cache, computed now, or none."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from kdcache.cache.entry import Entry
from kdcache.cache.stream import stream_targets
from kdcache.errors import CorruptError
from kdcache.jobs.answers import answer, batches_covering, teacher_labels
from kdcache.jobs.live import LiveTeacher
from kdcache.targets.base import Targets
from kdcache.views.stream import Views
from kdcache.views.viewset import Span, ViewSet

OpenStream = Callable[[Iterable[Span], int], Generator[Views, None, None]]
"""Renders spans at a size in pixels a side: `stream_views` over the run's data."""


@dataclass(frozen=True)
class Batch:
    """One step's rows: views as the student sees them, and what the teacher said of them."""

    views: Views
    targets: Targets | None


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Whole batches of paired rows; an odd last row and the last partial batch are left out, as in timm."""
    return samples // 2 * 2 // batch_size


@dataclass(frozen=True)
class TrainingSpans:
    """The rows of each step from `first_step` on: epoch e walks through view e in its order."""

    samples: int
    batch_size: int
    epochs: int
    first_step: int = 0

    def __iter__(self) -> Iterator[Span]:
        steps = steps_per_epoch(self.samples, self.batch_size)
        for step in range(self.first_step, self.epochs * steps):
            epoch, place = divmod(step, steps)
            yield Span(epoch, place * self.batch_size, (place + 1) * self.batch_size)


def supervised_batches(spans: TrainingSpans, open_stream: OpenStream, size: int) -> Generator[Batch, None, None]:
    """Views without answers."""
    with closing(open_stream(spans, size)) as stream:
        for views in stream:
            yield Batch(views, None)


def cached_batches(
    spans: TrainingSpans, open_stream: OpenStream, size: int, entry: Entry
) -> Generator[Batch, None, None]:
    """Views with the answers that the cache holds for them.

    Raises:
        CorruptError: the answers are not to these rows, or are damaged.
    """
    with closing(open_stream(spans, size)) as stream, closing(stream_targets(entry, spans)) as answers:
        for views, targets in zip(stream, answers, strict=True):
            yield Batch(views, _labelled(targets, views, entry).to(views.pixels.device))


def _labelled(targets: Targets, views: Views, entry: Entry) -> Targets:
    """Answers with the labels that their rows had when they were stored: none in label space `none`."""
    labels = teacher_labels(views, entry.identity.label_space)
    try:
        return targets.with_labels(labels)
    except CorruptError as error:
        raise CorruptError(
            f"The answers of teacher '{entry.identity.name}' do not fit the rows of a batch: {error} "
            "Check the cache with kdcache verify."
        ) from error


@dataclass(frozen=True)
class _Held:
    """Answered rows start..stop-1 of a view that the student has not come to yet."""

    span: Span
    pixels: Float32[Tensor, "b 3 s s"]
    targets: Targets


def live_batches(
    spans: TrainingSpans, open_stream: OpenStream, size: int, live: LiveTeacher, view_set: ViewSet
) -> Generator[Batch, None, None]:
    """Views with answers computed now: bit for bit those that `dump-logits` would have stored on this machine.

    The teacher works in its own batches, and its answers wait until the student's rows reach them. Where both want
    the same picture size, it is rendered once.
    """
    teacher = live.teacher
    shared = teacher.size == size
    batches = _teacher_batches(spans, len(view_set), live)
    with (
        closing(open_stream(batches, teacher.size)) as teacher_stream,
        closing(open_stream(() if shared else spans, size)) as student_stream,
    ):
        held: list[_Held] = []
        for span in spans:
            held = [part for part in held if part.span.view == span.view and part.span.stop > span.start]
            while not held or held[-1].span.stop < span.stop:
                views = next(teacher_stream)
                answered = answer(teacher, live.coding, views, live.label_space)
                held.append(_Held(views.span, views.pixels, answered.targets))
            pieces = [(part, _within(part.span, span)) for part in held]
            pieces = [(part, rows) for part, rows in pieces if rows.start < rows.stop]
            targets = type(held[0].targets).concat([part.targets[rows] for part, rows in pieces])
            if shared:
                pixels = torch.cat([part.pixels[rows] for part, rows in pieces])
                student_views = Views(span, view_set.rows(span), pixels)
            else:
                student_views = next(student_stream)
            yield Batch(student_views, targets.to(student_views.pixels.device))


def _teacher_batches(spans: TrainingSpans, samples: int, live: LiveTeacher) -> Iterator[Span]:
    """Each of the teacher's batches that holds a row of `spans`, once, in order."""
    last: Span | None = None
    for span in spans:
        for batch in batches_covering(
            span, samples=samples, block_rows=live.block_rows, batch_size=live.teacher.batch_size
        ):
            if last is None or batch > last:
                last = batch
                yield batch


def _within(part: Span, span: Span) -> slice:
    """The rows of `part`, counted from its start, that lie in `span`."""
    return slice(max(span.start - part.start, 0), min(span.stop, part.stop) - part.start)
