"""The pipeline from rows to pixels: read, render, augment and mix, ahead of the consumer."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from kdcache.data.reader import SampleReader
from kdcache.render.base import Renderer, RenderRequest
from kdcache.runtime.prefetch import prefetch
from kdcache.runtime.reused_memory import ReusedMemory
from kdcache.runtime.side_stream import Launched, SideStream
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import mix, mix_and_normalise
from kdcache.views.pixels.normalisation import Normalisation
from kdcache.views.viewset import RowIndices, RowRange, Rows, ViewSet

#: Pixels that the images of one request may have together, before they are cropped. DALI holds all of them, three bytes
#: a pixel (0.8 GB here) for each request in flight, and never gives memory back. 1,400 images of ImageNet's usual size.
MAX_DECODED_PIXELS = 2**28

#: Requests whose images are read before the renderer asks for them. 256 images of 110 KB are 28 MB.
READ_AHEAD = 2


@dataclass(frozen=True)
class Views:
    """Rows with their pixels, mixed and in 0..255, or normalised where `stream_views` was asked for it.

    In 0..255, each model normalises them with its own mean and std.
    """

    rows: Rows
    pixels: Float32[Tensor, "b 3 s s"]


def stream_views(
    view_set: ViewSet,
    reader: SampleReader,
    renderer: Renderer,
    wanted: Iterable[RowRange | RowIndices],
    depth: int = 2,
    normalisation: Normalisation | None = None,
) -> Generator[Views, None, None]:
    """Stream the views of wanted rows, in order, on the renderer's device.

    On a GPU they are computed in streams of their own, for which torch's current stream of the consumer's thread waits
    batch by batch.

    Args:
        view_set: view set that the rows belong to.
        reader: reader of the samples' encoded images.
        renderer: renderer of the wanted image size.
        wanted: rows of each batch.
        depth: number of batches that are computed ahead of the consumer.
        normalisation: normalisation of the one model that sees the views; None leaves pixels in 0..255.

    Raises:
        BrokenImageError: a sample cannot be decoded; the message names its key, shard and byte offset.
    """
    with closing(prefetch(_compute_views(view_set, reader, renderer, wanted, normalisation), depth)) as views:
        for launched in views:
            yield launched.take()


def _compute_views(
    view_set: ViewSet,
    reader: SampleReader,
    renderer: Renderer,
    wanted: Iterable[RowRange | RowIndices],
    normalisation: Normalisation | None,
) -> Generator[Launched[Views], None, None]:
    #: Rows whose rendering has been asked for and has not come back yet, and the number of requests for them.
    in_flight: deque[tuple[Rows, int]] = deque()
    index = view_set.index
    memory = ReusedMemory()

    def requests() -> Iterator[RenderRequest]:
        for where in wanted:
            rows = view_set.rows(where)
            plan, samples = rows.plan, rows.samples
            parts = bounded_parts(index.height[samples].astype(np.int64) * index.width[samples], MAX_DECODED_PIXELS)
            in_flight.append((rows, len(parts)))
            for part in parts:
                yield RenderRequest(
                    encoded=reader.read(samples[part]),
                    boxes=plan.box[part],
                    cubic=plan.cubic[part],
                    flips=plan.flip[part],
                    crop_pct=plan.crop_pct,
                    describe=partial(_describe_sample, view_set, samples[part]),
                    data=index.data,
                )

    # Two streams: in one, mixing a batch would wait until the next one is decoded.
    rendering, mixing = SideStream(renderer.device), SideStream(renderer.device)

    def render(read: Iterable[RenderRequest]) -> Iterator[Launched[Tensor]]:
        with rendering.entered():
            for pixels in renderer.stream(read):
                yield rendering.launched(pixels, (pixels,))

    # Reading, rendering, and augmenting and mixing have a thread each, because all three leave cores idle at times. A
    # disk that takes long is asked for the next requests while these are rendered.
    with (
        Augmenter(view_set.policy, renderer.threads) as augmenter,
        closing(prefetch(requests(), READ_AHEAD, "kdcache-request")) as read,
        closing(prefetch(render(read), 1, "kdcache-render")) as rendered,
        mixing.entered(),
    ):
        for first in rendered:
            rows, requested = in_flight.popleft()
            plan, pixels = rows.plan, first.take()
            if requested > 1:
                pixels = torch.cat([pixels, *(part.take() for part in islice(rendered, requested - 1))])
            augmented, reference_size = augmenter.apply(pixels, plan), view_set.policy.reference_size
            if normalisation is None:
                mixed = mix(augmented, plan.weight, plan.cut, reference_size, memory)
            else:
                mixed = mix_and_normalise(augmented, plan.weight, plan.cut, reference_size, normalisation)
            yield mixing.launched(Views(rows, mixed), (mixed,))


def bounded_parts(pixels: Int64[np.ndarray, " b"], limit: int) -> list[slice]:
    """Return consecutive parts of a batch whose images have at most `limit` pixels together, or are one image each."""
    parts, start, total = [], 0, 0
    for place, size in enumerate(pixels.tolist()):
        if place > start and total + size > limit:
            parts.append(slice(start, place))
            start, total = place, 0
        total += size
    return [*parts, slice(start, len(pixels))]


def _describe_sample(view_set: ViewSet, samples: Int64[np.ndarray, " b"], position: int) -> str:
    return view_set.index.describe(int(samples[position]))
