"""Views from shards: images are read ahead of the renderer, and a batch of large ones is rendered in parts."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data.index import Index, open_index
from kdcache.data.reader import SampleReader
from kdcache.errors import BrokenImageError
from kdcache.render.base import RenderRequest
from kdcache.render.pillow import PillowRenderer
from kdcache.views import stream as stream_module
from kdcache.views.policy import Policy
from kdcache.views.stream import READ_AHEAD, Views, bounded_parts, stream_views
from kdcache.views.viewset import RowRange, ViewSet
from support.shards import make_shards

IMAGES, BATCH, SIZE = 24, 12, 16
LIMIT = 60  # seconds; a guard against hanging


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_parts_follow_each_other_and_are_as_long_as_the_limit_allows(pixels: list[int], limit: int) -> None:
    parts = bounded_parts(np.array(pixels, np.int64), limit)
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(len(pixels)))
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        total = sum(pixels[part])
        assert total <= limit or part.stop == part.start + 1
        if following is not None:
            assert total + pixels[following.start] > limit


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(make_shards(tmp_path_factory.mktemp("data"), images=IMAGES, size=(20, 24)))


class Watched(PillowRenderer):
    """Remembers how many images each request has."""

    def _stream(self, requests: Iterator[RenderRequest]) -> Iterator[torch.Tensor]:
        self.requested: list[int] = []

        def noted() -> Iterator[RenderRequest]:
            for request in requests:
                self.requested.append(len(request))
                yield request

        yield from super()._stream(noted())


def views_of(index: Index) -> tuple[list[Views], list[int]]:
    view_set = ViewSet(index, Policy(mixup=0.2), 0, np.zeros(len(index), np.int32))
    spans = [RowRange(0, start, start + BATCH) for start in range(0, IMAGES, BATCH)]
    with SampleReader(index) as reader, Watched(size=SIZE, max_batch=BATCH) as renderer:
        return list(stream_views(view_set, reader, renderer, spans)), renderer.requested


def test_a_batch_in_parts_has_the_pixels_of_a_whole_one(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, requested = views_of(index)
    assert requested == [BATCH] * (IMAGES // BATCH)
    monkeypatch.setattr(stream_module, "MAX_DECODED_PIXELS", 5 * 20 * 24)
    parts, requested = views_of(index)
    assert requested == [5, 5, 2] * (IMAGES // BATCH)
    assert len(parts) == len(whole)
    for one, other in zip(parts, whole, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert np.array_equal(one.rows.samples, other.rows.samples)


def test_a_broken_image_of_a_later_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_index(make_shards(tmp_path, images=IMAGES, size=(20, 24), shards=1))
    view_set = ViewSet(index, Policy(), 0, np.zeros(len(index), np.int32))
    broken = int(view_set.rows(RowRange(0, 0, BATCH)).samples[BATCH - 1])
    with open(index.shards[0], "r+b") as shard:
        shard.seek(int(index.offset[broken]))
        shard.write(bytes(int(index.length[broken])))
    monkeypatch.setattr(stream_module, "MAX_DECODED_PIXELS", 5 * 20 * 24)
    with pytest.raises(BrokenImageError) as refused:
        views_of(index)
    assert str(refused.value).startswith(index.describe(broken))


def test_images_of_the_next_batches_are_read_while_one_is_rendered(index: Index) -> None:
    """So that a disk that is slow to answer does not keep the renderer waiting. Here the renderer waits for reads."""
    reads = threading.Semaphore(0)
    ahead = READ_AHEAD + 1

    class Reader(SampleReader):
        def read(self, samples: np.ndarray) -> list[bytes]:
            reads.release()
            return super().read(samples)

    class Slow(PillowRenderer):
        def _stream(self, requests: Iterator[RenderRequest]) -> Iterator[torch.Tensor]:
            first = next(requests)
            self.read_meanwhile = [reads.acquire(timeout=LIMIT) for _ in range(1 + ahead)]
            yield from super()._stream(itertools.chain([first], requests))

    view_set = ViewSet(index, Policy(), 0, np.zeros(len(index), np.int32))
    spans = [RowRange(0, start, start + 2) for start in range(0, 2 * (2 + ahead), 2)]
    with Reader(index) as reader, Slow(size=SIZE, max_batch=2) as renderer:
        views = list(stream_views(view_set, reader, renderer, spans))
    assert renderer.read_meanwhile == [True] * (1 + ahead)
    expected = np.concatenate([view_set.rows(span).samples for span in spans])
    assert np.array_equal(np.concatenate([one.rows.samples for one in views]), expected)
