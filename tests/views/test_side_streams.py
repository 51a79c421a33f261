"""On a GPU, views are computed in streams beside the training's, which waits for its own batch alone.

There is no GPU here: streams that write down who waits for what stand for torch's, and the values are the CPU's.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.data.index import Index, open_index
from kdcache.data.reader import SampleReader
from kdcache.render.pillow import PillowRenderer
from kdcache.runtime.side_stream import SideStream
from kdcache.views import stream as stream_module
from kdcache.views.policy import Policy
from kdcache.views.stream import Views, stream_views
from kdcache.views.viewset import RowRange, ViewSet
from support.shards import make_shards

BATCHES, BATCH, SIZE = 4, 4, 16


class Streams:
    """Streams that note, each in its own list, what is launched in them; a thread has the training's unless told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Stream] = []
        self.training = Stream("training")
        self._of_thread = threading.local()
        #: The stream in which each tensor may still be read, beside its own.
        self.readers: dict[int, list[str]] = {}
        monkeypatch.setattr(torch.cuda, "Stream", self._make)
        monkeypatch.setattr(torch.cuda, "stream", self._entered)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self._record(tensor, stream))

    @property
    def current(self) -> "Stream":
        return getattr(self._of_thread, "current", self.training)

    def _make(self, device: torch.device) -> "Stream":
        self.made.append(Stream(f"side {len(self.made)}"))
        return self.made[-1]

    @contextmanager
    def _entered(self, stream: "Stream | None") -> Iterator[None]:
        before = self.current
        self._of_thread.current = before if stream is None else stream
        yield
        self._of_thread.current = before

    def _record(self, tensor: torch.Tensor, stream: "Stream") -> None:
        self.readers.setdefault(id(tensor), []).append(stream.name)


class Stream:
    def __init__(self, name: str) -> None:
        self.name = name
        self.work: list[Any] = []

    def record_event(self) -> tuple[str, int]:
        """An event behind all work so far."""
        return self.name, len(self.work)

    def wait_event(self, event: tuple[str, int]) -> None:
        self.work.append(event)


class OnGpu(PillowRenderer):
    """Says that its pixels are on a GPU, and notes in which stream they are copied there."""

    streams: Streams

    def _open(self) -> None:
        super()._open()
        self.device = torch.device("cuda:0")

    def _allocate(self, count: int) -> torch.Tensor:
        return torch.empty(count, 3, self.size, self.size, dtype=torch.uint8)

    def _to_device(self, pixels: torch.Tensor) -> torch.Tensor:
        self.streams.current.work.append("copy")
        return pixels


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(make_shards(tmp_path_factory.mktemp("data"), images=BATCHES * BATCH, size=(20, 24)))


def views_of(index: Index, renderer: PillowRenderer) -> list[Views]:
    view_set = ViewSet(index, Policy(mixup=0.2), 0, np.zeros(len(index), np.int32))
    spans = [RowRange(0, start, start + BATCH) for start in range(0, len(index), BATCH)]
    with SampleReader(index) as reader, renderer:
        return list(stream_views(view_set, reader, renderer, spans))


def test_the_training_waits_for_the_mixing_of_its_batch_which_waits_for_its_copy_and_for_nothing_else(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = views_of(index, PillowRenderer(size=SIZE, max_batch=BATCH))
    mix = stream_module.mix

    def noted(pixels: torch.Tensor, *arguments: Any) -> torch.Tensor:
        streams.current.work.append("mix")
        return mix(pixels, *arguments)

    OnGpu.streams = streams = Streams(monkeypatch)
    monkeypatch.setattr(stream_module, "mix", noted)
    found = views_of(index, OnGpu(size=SIZE, max_batch=BATCH))
    rendering, mixing = streams.made
    copies = range(1, BATCHES + 1)
    assert rendering.work == ["copy"] * BATCHES
    assert mixing.work == [step for copied in copies for step in ((rendering.name, copied), "mix")]
    assert streams.training.work == [(mixing.name, 2 * mixed) for mixed in copies]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.pixels, other.pixels)


def test_memory_that_another_stream_reads_is_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, tensor = Streams(monkeypatch), torch.zeros(2)
    side = SideStream(torch.device("cuda:0"))
    with side.entered():
        assert streams.current is streams.made[0]
        launched = side.launched("a batch", (tensor,))
    assert streams.current is streams.training
    assert not streams.readers
    assert launched.take() == "a batch"
    assert streams.readers == {id(tensor): ["training"]}
    assert streams.training.work == [("side 0", 0)]


def test_without_a_gpu_there_is_no_stream() -> None:
    side, tensor = SideStream(torch.device("cpu")), torch.zeros(2)
    with side.entered():
        assert side.launched(tensor, (tensor,)).take() is tensor
