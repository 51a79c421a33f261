"""From rows to pixels: read, render, augment and mix, ahead of whoever consumes them."""

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
    """Rows with their pixels: mixed, in 0..255, not yet normalised (mean and std belong to each model)."""

    rows: Rows
    pixels: Float32[Tensor, "b 3 s s"]


def stream_views(
    view_set: ViewSet, reader: SampleReader, renderer: Renderer, wanted: Iterable[RowRange | RowIndices], depth: int = 2
) -> Generator[Views, None, None]:
    """The views of wanted rows, in order, on the renderer's device; up to `depth` batches are made ahead.

    Raises:
        BrokenImageError: a sample that cannot be decoded, by key, shard and offset.
    """
    with closing(prefetch(_made(view_set, reader, renderer, wanted), depth)) as made:
        yield from made


def _made(
    view_set: ViewSet, reader: SampleReader, renderer: Renderer, wanted: Iterable[RowRange | RowIndices]
) -> Generator[Views, None, None]:
    asked: deque[Rows] = deque()

    def requests() -> Iterator[RenderRequest]:
        for where in wanted:
            rows = view_set.rows(where)
            asked.append(rows)
            yield RenderRequest(
                encoded=reader.read(rows.samples),
                boxes=rows.plan.box,
                cubic=rows.plan.cubic,
                flips=rows.plan.flip,
                crop_pct=rows.plan.crop_pct,
                describe=partial(_describe, view_set, rows),
                data=view_set.index.data,
            )

    # Rendering goes on in a thread of its own while a batch is augmented and mixed: both leave cores idle at times.
    with (
        Augmenter(view_set.policy, renderer.threads) as augmenter,
        closing(prefetch(renderer.stream(requests()), 1)) as rendered,
    ):
        for pixels in rendered:
            rows = asked.popleft()
            plan = rows.plan
            mixed = mix(augmenter.apply(pixels, plan), plan.weight, plan.cut, view_set.policy.reference_size)
            yield Views(rows, mixed)


def _describe(view_set: ViewSet, rows: Rows, position: int) -> str:
    return view_set.index.describe(int(rows.samples[position]))
