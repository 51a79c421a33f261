"""The pipeline from rows to pixels: read, render, augment and mix, ahead of the consumer."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float32
from torch import Tensor

from kdcache.data.reader import SampleReader
from kdcache.render.base import Renderer, RenderRequest
from kdcache.runtime.prefetch import prefetch
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import mix
from kdcache.views.viewset import RowIndices, RowRange, Rows, ViewSet


@dataclass(frozen=True)
class Views:
    """Rows with their pixels, mixed and in 0..255. Each model normalises them with its own mean and std."""

    rows: Rows
    pixels: Float32[Tensor, "b 3 s s"]


def stream_views(
    view_set: ViewSet, reader: SampleReader, renderer: Renderer, wanted: Iterable[RowRange | RowIndices], depth: int = 2
) -> Generator[Views, None, None]:
    """Stream the views of wanted rows, in order, on the renderer's device.

    Args:
        view_set: view set that the rows belong to.
        reader: reader of the samples' encoded images.
        renderer: renderer of the wanted image size.
        wanted: rows of each batch.
        depth: number of batches that are computed ahead of the consumer.

    Raises:
        BrokenImageError: a sample cannot be decoded; the message names its key, shard and byte offset.
    """
    with closing(prefetch(_compute_views(view_set, reader, renderer, wanted), depth)) as views:
        yield from views


def _compute_views(
    view_set: ViewSet, reader: SampleReader, renderer: Renderer, wanted: Iterable[RowRange | RowIndices]
) -> Generator[Views, None, None]:
    #: Rows whose rendering has been asked for and has not come back yet.
    in_flight: deque[Rows] = deque()

    def requests() -> Iterator[RenderRequest]:
        for where in wanted:
            rows = view_set.rows(where)
            in_flight.append(rows)
            yield RenderRequest(
                encoded=reader.read(rows.samples),
                boxes=rows.plan.box,
                cubic=rows.plan.cubic,
                flips=rows.plan.flip,
                crop_pct=rows.plan.crop_pct,
                describe=partial(_describe_sample, view_set, rows),
                data=view_set.index.data,
            )

    # Rendering has a thread of its own while a batch is augmented and mixed, because both leave cores idle at times.
    with (
        Augmenter(view_set.policy, renderer.threads) as augmenter,
        closing(prefetch(renderer.stream(requests()), 1)) as rendered,
    ):
        for pixels in rendered:
            rows = in_flight.popleft()
            plan = rows.plan
            mixed = mix(augmenter.apply(pixels, plan), plan.weight, plan.cut, view_set.policy.reference_size)
            yield Views(rows, mixed)


def _describe_sample(view_set: ViewSet, rows: Rows, position: int) -> str:
    return view_set.index.describe(int(rows.samples[position]))
