"""From spans to pixels: read, render and mix, ahead of whoever consumes them."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float32
from torch import Tensor

from kdcache.data.shards import SampleReader
from kdcache.prefetch import prefetch
from kdcache.render.base import Renderer, RenderRequest
from kdcache.views.mix import mix
from kdcache.views.viewset import Rows, Span, ViewSet


@dataclass(frozen=True)
class Views:
    """A span with its pixels: mixed, in 0..255, not yet normalised (mean and std belong to each model)."""

    span: Span
    rows: Rows
    pixels: Float32[Tensor, "b 3 s s"]


def stream_views(
    view_set: ViewSet, reader: SampleReader, renderer: Renderer, spans: Iterable[Span], depth: int = 2
) -> Generator[Views, None, None]:
    """The views of each span, in order, on the renderer's device; up to `depth` spans are made ahead.

    Raises:
        BrokenImageError: a sample that cannot be decoded, by key, shard and offset.
    """
    with closing(prefetch(_render(view_set, reader, renderer, spans), depth)) as rendered:
        for span, rows, pixels in rendered:
            plan = rows.plan
            mixed = mix(
                pixels,
                torch.from_numpy(plan.weight).to(pixels.device),
                torch.from_numpy(plan.cut).to(pixels.device),
                view_set.policy.reference_size,
            )
            yield Views(span, rows, mixed)


def _render(
    view_set: ViewSet, reader: SampleReader, renderer: Renderer, spans: Iterable[Span]
) -> Generator[tuple[Span, Rows, Tensor], None, None]:
    asked: list[tuple[Span, Rows]] = []

    def requests() -> Iterator[RenderRequest]:
        for span in spans:
            rows = view_set.rows(span)
            asked.append((span, rows))
            yield RenderRequest(
                encoded=reader.read(rows.samples),
                boxes=rows.plan.box,
                flips=rows.plan.flip,
                describe=partial(_describe, view_set, rows),
            )

    for pixels in renderer.stream(requests()):
        span, rows = asked.pop(0)
        yield span, rows, pixels


def _describe(view_set: ViewSet, rows: Rows, position: int) -> str:
    return view_set.index.describe(int(rows.samples[position]))
