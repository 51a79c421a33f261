"""How fast views are made, beside a training step of the network that learns from them."""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import timm
import torch

from checks.report import Line, Setting, Table
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.data.writer import NewSample, write_shards
from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.opening import open_renderer
from kdcache.runtime.device import autocast, cores, resolve_precision
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import mix
from kdcache.views.policies import NAMED
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowRange, ViewSet
from support.images import PHOTOGRAPHS, photograph

POLICY = "a2"
JPEG_SIZE = (500, 375)
MOST_AUGMENTING, LEAST_LOADING = 0.05, 1.3  # of a step's time, and of its rate
_WARM_UP = 3
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def speed(setting: Setting) -> Table:
    """Medians; a loader's rate is that of the whole stretch."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), setting) as (view_set, reader):
        rendering = {decode: rendering_rate(setting, view_set, reader, decode) for decode in decodes(setting)}
        augmenting = augmenting_seconds(setting, view_set, reader)
        loading = loading_rate(setting, view_set, reader, lambda pixels: None)
        step = Step(setting)
        alone = step.seconds(setting.batches)
        together = loading_rate(setting, view_set, reader, step)
    rate = setting.batch / alone
    return Table(
        f"Speed: batches of {setting.batch} at {setting.size}, policy {POLICY}, JPEGs of 500 x 375, "
        f"{cores()} threads of the CPU",
        ("what", "measured"),
        [
            *(
                Line((f"decode, crop and resize, decoding on the {decode.upper()}", f"{images:,.0f} images/s"))
                for decode, images in rendering.items()
            ),
            Line(
                (f"training step of {setting.model} ({step.precision})", f"{1e3 * alone:.1f} ms: {rate:,.0f} images/s")
            ),
            Line(
                (
                    f"augment and mix (limit: {MOST_AUGMENTING:.0%} of the step)",
                    f"{1e3 * augmenting:.2f} ms a batch: {augmenting / alone:.1%} of the step",
                ),
                limited(setting, augmenting / alone <= MOST_AUGMENTING),
            ),
            Line(
                (
                    f"loader alone (limit: {LEAST_LOADING} times the step's rate)",
                    f"{loading:,.0f} images/s: {loading / rate:.2f} times",
                ),
                limited(setting, loading / rate >= LEAST_LOADING),
            ),
            Line(
                ("loader and step together", f"{together:,.0f} images/s: {together / rate:.2f} times the step's rate")
            ),
            Line(("peak memory, loader and step together", step.peak_memory())),
        ],
    )


def limited(setting: Setting, holds: bool) -> bool | None:
    """The limits are for a GPU; elsewhere the figures are only printed."""
    return holds if setting.device.type == "cuda" else None


def decodes(setting: Setting) -> tuple[str, ...]:
    return ("gpu", "cpu") if setting.device.type == "cuda" else ("cpu",)


@contextmanager
def opened(folder: Path, setting: Setting) -> Iterator[tuple[ViewSet, SampleReader]]:
    """Four batches of photographs in a shard, and all views of them."""
    write_shards(photographs(4 * setting.batch), folder, samples_per_shard=10**6)
    index = open_index(str(folder))
    with closing(SampleReader(index)) as reader:
        yield ViewSet(index, NAMED[POLICY], 0, np.zeros(len(index), np.int32)), reader


def photographs(count: int) -> Iterator[NewSample]:
    """JPEGs of 500 x 375 pixels, each another part of a photograph."""
    draws = np.random.default_rng(0)
    for number in range(count):
        photo = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
        width = int(draws.integers(200, min(photo.width, photo.height * 4 // 3)))
        height = width * 3 // 4
        left, top = (int(draws.integers(0, free + 1)) for free in (photo.width - width, photo.height - height))
        file = io.BytesIO()
        photo.crop((left, top, left + width, top + height)).resize(JPEG_SIZE).save(file, "JPEG", quality=90)
        yield NewSample(f"{number:06d}", "jpg", file.getvalue(), number % 10)


def row_ranges(setting: Setting, view_set: ViewSet) -> Iterator[RowRange]:
    """Batch after batch, view after view, without end."""
    view = 0
    while True:
        for start in range(0, len(view_set), setting.batch):
            yield RowRange(view, start, start + setting.batch)
        view += 1


def renderer_for(setting: Setting, decode: str = "auto") -> Renderer:
    return open_renderer("dali", size=setting.size, max_batch=setting.batch, device=setting.device, decode=decode)


def rendering_rate(setting: Setting, view_set: ViewSet, reader: SampleReader, decode: str) -> float:
    """Images a second from bytes in memory to pixels on the device."""
    four = []
    for row_range in islice(row_ranges(setting, view_set), 4):
        rows = view_set.rows(row_range)
        plan = rows.plan
        four.append(RenderRequest(reader.read(rows.samples), plan.box, cubic=plan.cubic, flips=plan.flip))
    requests = (four[number % 4] for number in range(_WARM_UP + setting.batches))
    with renderer_for(setting, decode) as renderer:
        return rate_of(renderer.stream(requests), setting)


def loading_rate(
    setting: Setting, view_set: ViewSet, reader: SampleReader, use: Callable[[torch.Tensor], None]
) -> float:
    """Images a second of the loader that training uses, with `use` of each batch."""
    wanted = islice(row_ranges(setting, view_set), _WARM_UP + setting.batches)

    def used() -> Iterator[torch.Tensor]:
        with renderer_for(setting) as renderer, closing(stream_views(view_set, reader, renderer, wanted)) as stream:
            for views in stream:
                use(views.pixels)
                yield views.pixels

    return rate_of(used(), setting)


def rate_of(batches: Iterator[torch.Tensor], setting: Setting) -> float:
    """Images a second once warm."""
    for _ in islice(batches, _WARM_UP):
        pass
    synchronise(setting)
    start = time.perf_counter()
    rows = sum(len(pixels) for pixels in batches)
    synchronise(setting)
    return rows / (time.perf_counter() - start)


def augmenting_seconds(setting: Setting, view_set: ViewSet, reader: SampleReader) -> float:
    """Median time of one batch's operations and mixing, on the device, pixels being there."""
    seconds = []
    with renderer_for(setting) as renderer, Augmenter(view_set.policy) as augmenter:
        for row_range in islice(row_ranges(setting, view_set), _WARM_UP + setting.batches):
            rows = view_set.rows(row_range)
            plan = rows.plan
            pixels = renderer.render(reader.read(rows.samples), plan.box, cubic=plan.cubic, flips=plan.flip)
            synchronise(setting)
            start = time.perf_counter()
            mix(augmenter.apply(pixels, plan), plan.weight, plan.cut, view_set.policy.reference_size)
            synchronise(setting)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARM_UP:])


def synchronise(setting: Setting) -> None:
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)


class Step:
    """One step of plain training in mixed precision: the network of `setting`, SGD with momentum, channels last."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        device = setting.device
        self.precision = resolve_precision("auto", device)
        self._model = timm.create_model(setting.model, num_classes=1000).to(device, memory_format=torch.channels_last)
        self._model.train()
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.01, momentum=0.9)
        self._mean, self._std = (torch.tensor(part, device=device).view(1, 3, 1, 1) for part in (_MEAN, _STD))
        self._labels = torch.arange(setting.batch, device=device) % 1000
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def __call__(self, pixels: torch.Tensor) -> None:
        images = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        with autocast(self.precision, self._setting.device):
            loss = torch.nn.functional.cross_entropy(self._model(images), self._labels[: len(images)])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()

    def seconds(self, steps: int) -> float:
        """Median time of a step on pixels that are there."""
        setting = self._setting
        pixels = torch.rand(setting.batch, 3, setting.size, setting.size, device=setting.device) * 255
        seconds = []
        for _ in range(_WARM_UP + steps):
            synchronise(setting)
            start = time.perf_counter()
            self(pixels)
            synchronise(setting)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[_WARM_UP:])

    def peak_memory(self) -> str:
        """Of PyTorch since this was made; of everybody, DALI included, as it is now."""
        device = self._setting.device
        if device.type != "cuda":
            return "not counted on a CPU"
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"{peak / 2**30:.1f} GiB by PyTorch; {(total - free) / 2**30:.1f} GiB of the GPU are taken in all"
