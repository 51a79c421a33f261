"""Inside a training and a dump: whether the host ever waits for the GPU, and for what share of time this is busy."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu.data import FEWEST_VIEWS, Workplace
from gpu.page import Line, Table, cause
from gpu.setting import Setting
from kdcache.models.teachers import Teacher
from kdcache.runtime.device import resolve_precision
from kdcache.training.trainer import Trainer

MODES = {"from the cache": "cache", "supervised": "supervised", "with a live teacher": "live"}
#: Steps or batches that load kernels and fill queues, before anything is measured.
WARM_UP = 2


def waiting(setting: Setting) -> Iterator[Table]:
    """Steps of each kind of training, and the loading of their batches, while PyTorch raises where the host waits.

    It is watched from the third step of an epoch to the last: numbers are read at the end of an epoch.
    """
    title = "The host waits for nothing between one step and the next"
    lines: list[Line] = []
    for what, place in prepared(setting):
        watched: list[int] = []
        try:
            with around_steps(place.steps_per_epoch, partial(watch, setting), watched):
                place.train(f"run-{MODES[what]}", precision=precision_of(setting), epochs=1, mode=MODES[what])
            if not watched:
                raise RuntimeError("no step was watched")
        except Exception as error:
            lines.append(Line((what, cause(error)), False))
        else:
            found = "so" if setting.on_gpu else "left out: it needs a GPU"
            lines.append(Line((what, f"{found}, {len(watched)} steps"), True if setting.on_gpu else None))
        yield Table(title, ("training", "result"), tuple(lines))


def busy(setting: Setting) -> Iterator[Table]:
    """Share of the time in which at least one kernel or copy runs on the device, as the profiler has seen them."""
    title = "Share of time in which the device works"
    lines: list[Line] = []
    for what, place in prepared(setting):
        shares: list[str] = []
        try:
            with around_steps(place.steps_per_epoch, partial(profiled, setting, shares), []):
                place.train(f"run-{MODES[what]}", precision=precision_of(setting), epochs=1, mode=MODES[what])
            lines.append(Line((f"training {what}", *shares)))
        except Exception as error:
            lines.append(Line((f"training {what}", cause(error)), False))
        yield Table(title, ("job", "busy"), tuple(lines))
    lines.append(busy_dump(setting))
    yield Table(title, ("job", "busy"), tuple(lines))


def busy_dump(setting: Setting) -> Line:
    """The same of a dump, from its third batch on."""
    with tempfile.TemporaryDirectory() as folder:
        place, shares = Workplace.create(Path(folder), setting), list[str]()
        last = setting.samples // setting.batch
        try:
            with around(Teacher, "compute_output", WARM_UP, last, partial(profiled, setting, shares), []):
                # Before the first view the teacher computes a few batches that show the order of classes.
                place.dump("other", views=FEWEST_VIEWS)
            return Line(("dump-logits", *shares))
        except Exception as error:
            return Line(("dump-logits", cause(error)), False)


def prepared(setting: Setting) -> Iterator[tuple[str, Workplace]]:
    """Each kind of training, in a place that has data, a teacher and a cache."""
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace.create(Path(folder), setting)
        place.dump("cache", views=FEWEST_VIEWS)
        for what in MODES:
            yield what, place


def precision_of(setting: Setting) -> str:
    """The precision of a training on the device."""
    return resolve_precision("auto", setting.device)


def around_steps(steps: int, context: Callable[[], Any], seen: list[int]) -> Any:
    """A context from the third step of a training to its last."""
    return around(Trainer, "train_step", min(WARM_UP, steps - 1), steps, context, seen)


@contextmanager
def around(
    owner: type, name: str, first: int, last: int, context: Callable[[], Any], seen: list[int]
) -> Iterator[None]:
    """While calls number `first` to `last` - 1 of a method run, and between them, be in a context; `seen` lists them.

    The context is entered before the first of them and left behind the last one, in the thread that makes the calls.
    """
    method, count = getattr(owner, name), 0
    held: Any = None

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal count, held
        if count == first:
            held = context()
            held.__enter__()
        try:
            return method(self, *arguments, **keywords)
        finally:
            if held is not None:
                seen.append(count)
            count += 1
            if held is not None and count == last:
                held, ended = None, held
                ended.__exit__(None, None, None)

    try:
        with patch.object(owner, name, call):
            yield
    finally:
        if held is not None:
            held.__exit__(None, None, None)


@contextmanager
def watch(setting: Setting) -> Iterator[None]:
    """PyTorch raises RuntimeError where a call would wait for the GPU; on a CPU nothing changes."""
    if not setting.on_gpu:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def profiled(setting: Setting, shares: list[str]) -> Iterator[None]:
    """Profile what happens, and add the share of the time in which the device worked."""
    activity = ProfilerActivity.CUDA if setting.on_gpu else ProfilerActivity.CPU
    setting.synchronise()
    with profile(activities=[activity]) as profiler:
        start = time.perf_counter()
        yield
        setting.synchronise()
        wall = 1e6 * (time.perf_counter() - start)
    kind = DeviceType.CUDA if setting.on_gpu else DeviceType.CPU
    times = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == kind and not event.is_user_annotation
    ]
    if not times:
        raise RuntimeError("the profiler has seen nothing on the device")
    shares.append(f"{covered(times) / wall:.1%} of {wall / 1e6:.2f} s, {len(times):,} kernels and copies")


def covered(times: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(times):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
