"""How fast views are made, beside a training step of the network that learns from them.

On a GPU, work whose pixels are there is timed by CUDA events; what begins on the host is timed by its clock.
"""

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

from gpu.data import photographs
from gpu.page import Line, Table
from gpu.setting import Setting
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.data.writer import write_shards
from kdcache.render.base import Renderer, RenderRequest
from kdcache.render.opening import open_renderer
from kdcache.runtime.cores import cores
from kdcache.runtime.device import autocast, resolve_precision
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import mix
from kdcache.views.plan import make_plan
from kdcache.views.policies import NAMED
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowRange, ViewSet

POLICY = "a2"
MOST_AUGMENTING, LEAST_LOADING = 0.05, 1.3  # of a step's time, and of its rate
_WARM_UP = 3
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


POLICIES = ("crop", "a2", "b", "three-augment")


def speed(setting: Setting) -> Iterator[Table]:
    """Augmentation and the step first, as they need no renderer; then decoding, then all of it."""
    step = Step(setting)
    alone = step.seconds(setting.batches)
    rate = setting.batch / alone
    lines = [Line((f"training step of {setting.model} ({step.precision})", f"{1e3 * alone:.2f} ms", "1"))]
    title, header = f"A step's work on batches of {setting.batch} at {setting.size}", ("what", "time", "of the step")
    for name in POLICIES:
        seconds = augmenting_seconds(setting, name)
        holds = setting.limited(seconds / alone <= MOST_AUGMENTING) if name == POLICY else None
        limit = f" (limit: {MOST_AUGMENTING:.0%})" if name == POLICY else ""
        lines.append(
            Line((f"augment and mix, {name}{limit}", f"{1e3 * seconds:.2f} ms", f"{seconds / alone:.1%}"), holds)
        )
        yield Table(title, header, tuple(lines))
    title = f"Views a second: policy {POLICY}, JPEGs of 500 x 375, {cores()} cores"
    header, lines = ("what", "images/s", "of the step's rate"), []

    def table(what: str, images: float, holds: bool | None = None) -> Table:
        lines.append(Line((what, f"{images:,.0f}", f"{images / rate:.2f}"), holds))
        return Table(title, header, tuple(lines))

    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), setting) as (view_set, reader):
        for decode in setting.decodes:
            for threads in thread_counts():
                images = rendering_rate(setting, view_set, reader, decode, threads)
                yield table(f"decode and resize on the {decode}, {threads} threads", images)
        loading = loading_rate(setting, view_set, reader, lambda pixels: None)
        what = f"loader alone (limit: {LEAST_LOADING} times the step's rate)"
        yield table(what, loading, setting.limited(loading / rate >= LEAST_LOADING))
        yield table("loader and step together", loading_rate(setting, view_set, reader, step))
    yield Table("Memory, loader and step together", ("what", "peak"), (Line(("peak", step.peak_memory())),))


def thread_counts() -> list[int]:
    """All cores, and half and a quarter of them."""
    return sorted({max(1, cores() // part) for part in (1, 2, 4)})


@contextmanager
def opened(folder: Path, setting: Setting) -> Iterator[tuple[ViewSet, SampleReader]]:
    """Four batches of photographs in a shard, and all views of them."""
    write_shards(photographs(4 * setting.batch), folder, samples_per_shard=10**6)
    index = open_index(str(folder))
    with closing(SampleReader(index)) as reader:
        yield ViewSet(index, NAMED[POLICY], 0, np.zeros(len(index), np.int32)), reader


def row_ranges(setting: Setting, view_set: ViewSet) -> Iterator[RowRange]:
    """Batch after batch, view after view, without end."""
    view = 0
    while True:
        for start in range(0, len(view_set), setting.batch):
            yield RowRange(view, start, start + setting.batch)
        view += 1


def renderer_for(setting: Setting, decode: str, threads: int | None = None) -> Renderer:
    return open_renderer(
        "dali", size=setting.size, max_batch=setting.batch, threads=threads, device=setting.device, decode=decode
    )


def rendering_rate(setting: Setting, view_set: ViewSet, reader: SampleReader, decode: str, threads: int) -> float:
    """Images a second from bytes in memory to pixels on the device."""
    four = []
    for row_range in islice(row_ranges(setting, view_set), 4):
        rows = view_set.rows(row_range)
        plan = rows.plan
        four.append(RenderRequest(reader.read(rows.samples), plan.box, cubic=plan.cubic, flips=plan.flip))
    requests = (four[number % 4] for number in range(_WARM_UP + setting.batches))
    with renderer_for(setting, decode, threads) as renderer:
        return rate_of(renderer.stream(requests), setting)


def loading_rate(
    setting: Setting, view_set: ViewSet, reader: SampleReader, use: Callable[[torch.Tensor], None]
) -> float:
    """Images a second of the loader that training uses, with `use` of each batch."""
    wanted = islice(row_ranges(setting, view_set), _WARM_UP + setting.batches)

    def used() -> Iterator[torch.Tensor]:
        with (
            renderer_for(setting, setting.decode) as renderer,
            closing(stream_views(view_set, reader, renderer, wanted)) as stream,
        ):
            for views in stream:
                use(views.pixels)
                yield views.pixels

    return rate_of(used(), setting)


def rate_of(batches: Iterator[torch.Tensor], setting: Setting) -> float:
    """Images a second once warm."""
    for _ in islice(batches, _WARM_UP):
        pass
    setting.synchronise()
    start = time.perf_counter()
    rows = sum(len(pixels) for pixels in batches)
    setting.synchronise()
    return rows / (time.perf_counter() - start)


def augmenting_seconds(setting: Setting, name: str) -> float:
    """Median time of one batch's operations and mixing, on the device, pixels being there."""
    policy, draws = NAMED[name], np.random.default_rng(0)
    pixels = torch.randint(0, 256, (setting.batch, 3, setting.size, setting.size), dtype=torch.uint8)
    pixels = pixels.to(setting.device)
    sides = np.full(setting.batch, 400)
    with Augmenter(policy) as augmenter:

        def made() -> Callable[[], object]:
            keys = draws.integers(0, 1 << 63, setting.batch).astype(np.uint64)
            plan = make_plan(policy, 0, 0, keys, sides, sides)
            return lambda: mix(augmenter.apply(pixels, plan), plan.weight, plan.cut, policy.reference_size)

        return median_seconds(setting, made)


def median_seconds(setting: Setting, prepare: Callable[[], Callable[[], object]]) -> float:
    """Median time of what `prepare` returns: between two CUDA events on a GPU, of the clock on a CPU.

    The device is idle when a measurement begins, so that a launch that is slower than the kernels counts in full.
    """
    seconds = []
    for _ in range(_WARM_UP + setting.batches):
        work = prepare()
        setting.synchronise()
        if setting.on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARM_UP:])


class Step:
    """One step of plain training in mixed precision: the network of `setting`, SGD with momentum, channels last."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        device = setting.device
        self.precision = resolve_precision("auto", device)
        model = timm.create_model(setting.model, num_classes=1000)
        self._model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        return median_seconds(setting, lambda: lambda: self(pixels))

    def peak_memory(self) -> str:
        """Of PyTorch since this was made; of everybody, DALI included, as it is now."""
        device = self._setting.device
        if device.type != "cuda":
            return "not counted on a CPU"
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"{peak / 2**30:.1f} GiB by PyTorch; {(total - free) / 2**30:.1f} GiB of the GPU are taken in all"
