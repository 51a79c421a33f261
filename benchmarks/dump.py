"""Images a second of `kdcache dump-logits` beside the bare forward pass of the same teacher, as Markdown.

    python benchmarks/dump.py [--teachers NAME ...] [--size S] [--batch-size N] [--samples N] [--runs N]
    python benchmarks/dump.py --tiny    # a rehearsal of seconds, whose figures say nothing

Teachers of timm's with random weights, which take the time of trained ones. The data set is made here: JPEGs of
coloured noise, a little larger than the teacher's images. The bare pass is what nobody can go below: the module alone,
in the same precision and batch size, on normalised tensors that lie on the device already. The dump is the whole job,
without what it does once: it adds a view to a cache that has one, so that the model is loaded and the order of classes
is known. A run is one bare pass and one dump over as many images, in turns first; ratios are of the two in one run.

The goal is for teachers that are the bottleneck. On the CPU views are made by the same cores, so the ratio cannot
exceed what the time of views alone leaves; on a GPU it cannot exceed the ratio of the two rates. That is the limit in
the table, and a teacher whose limit is below `MIN_LIMIT` is refused, as are too few batches, and bare passes that
differ from each other by more than `MAX_SPREAD`, which shows that something else runs on the machine.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as kdcache's own commands set it

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

import kdcache
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.data.writer import NewSample, write_shards
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.loader.opening import views_for_dump
from kdcache.loader.teacher_views import block_batches
from kdcache.models.load import load_model
from kdcache.models.students import create_student
from kdcache.render.opening import open_renderer
from kdcache.runtime.device import autocast, cores, processor_name, resolve_device, resolve_precision, use_all_cores
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import silent
from kdcache.training.export import export_model
from kdcache.views.stream import stream_views

TEACHERS, TINY_TEACHERS = ("resnet50", "vit_small_patch16_224"), ("test_resnet", "test_vit")
#: How much higher and wider than the teacher's images the JPEGs are.
MARGIN = 1.25
#: Batches of a run, at least: the first waits for its views and the last for its record, so that fewer hide what one
#: batch costs.
MIN_BATCHES = 32
#: Least limit of the ratio at which the teacher is the bottleneck.
MIN_LIMIT = 0.9
#: Largest bare rate less the smallest, as a share of the median.
MAX_SPREAD = 0.1
#: Batches on the device that the bare pass takes one after the other, and those before its clock starts.
RESIDENT, WARM_UP = 2, 2


@dataclass(frozen=True)
class Setting:
    """What every measurement has in common."""

    data: str
    folder: Path
    samples: int
    size: int
    batch_size: int
    classes: int
    device: torch.device
    policy: str
    renderer: str
    targets: str

    @property
    def precision(self) -> str:
        return resolve_precision("auto", self.device)

    @property
    def batches(self) -> int:
        """The number of the teacher's batches in a view."""
        return self.samples // self.batch_size

    def rate(self, start: float) -> float:
        """Images a second of a view that began at `start`, when the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.samples / (time.perf_counter() - start)


@dataclass
class Figures:
    """Images a second of a teacher: of views without it, and of each run's bare pass and dump."""

    views: float
    bare: list[float] = field(default_factory=list)
    dumped: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [dumped / bare for dumped, bare in zip(self.dumped, self.bare, strict=True)]

    @property
    def spread(self) -> float:
        """How far the bare passes are apart, as a share of their median."""
        return (max(self.bare) - min(self.bare)) / statistics.median(self.bare)

    def limit(self, device: torch.device) -> float:
        """The largest ratio that can be had: views are made beside the teacher on a GPU, on its cores on the CPU."""
        bare = statistics.median(self.bare)
        return min(1.0, self.views / bare) if device.type == "cuda" else self.views / (self.views + bare)


def write_images(folder: Path, asked: argparse.Namespace, classes: int) -> str:
    """Write JPEGs of smooth coloured noise with random labels as shards; return their folder."""
    draws, side = np.random.default_rng(0), round(MARGIN * asked.size)

    def samples() -> Iterator[NewSample]:
        for number in range(asked.samples):
            noise = Image.fromarray(draws.integers(0, 256, (9, 12, 3), dtype=np.uint8))
            file = io.BytesIO()
            noise.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            yield NewSample(f"{number:06d}", "jpg", file.getvalue(), number % classes)

    names = [f"class {number}" for number in range(classes)]
    write_shards(samples(), folder, samples_per_shard=256, class_names=names)
    return str(folder)


def views_rate(setting: Setting) -> float:
    """Images a second of the views alone, as the dump makes them."""
    index = open_index(setting.data)
    opened = views_for_dump(str(setting.folder / "none"), index, setting.policy, 0, silent)
    row_ranges = block_batches(0, 0, samples=setting.samples, block_rows=setting.samples, batch_size=setting.batch_size)
    with (
        closing(SampleReader(index)) as reader,
        open_renderer(
            setting.renderer, size=setting.size, max_batch=setting.batch_size, device=setting.device
        ) as renderer,
    ):
        start = time.perf_counter()
        for _ in stream_views(opened.view_set, reader, renderer, row_ranges):
            pass
        return setting.rate(start)


class BarePass:
    """A teacher's module and some batches of normalised images on the device."""

    def __init__(self, setting: Setting, name: str, weights: Path) -> None:
        network = load_model(name, weights, size=setting.size)
        module = network.module.to(setting.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module, self._setting = module.eval().requires_grad_(False), setting
        generator, shape = torch.Generator().manual_seed(0), (setting.batch_size, 3, setting.size, setting.size)
        self._inputs: list[Tensor] = [
            network.normalise((torch.rand(shape, generator=generator) * 255).to(setting.device)).contiguous(
                memory_format=torch.channels_last
            )
            for _ in range(RESIDENT)
        ]
        self._compute(WARM_UP)

    @torch.no_grad()
    def _compute(self, batches: int) -> None:
        with autocast(self._setting.precision, self._setting.device):
            for number in range(batches):
                self._module(self._inputs[number % RESIDENT])

    def rate(self) -> float:
        """Images a second over as many images as a view has."""
        self._setting.rate(0.0)  # waits until nothing is left to compute
        start = time.perf_counter()
        self._compute(self._setting.batches)
        return self._setting.rate(start)


def dump_rate(setting: Setting, name: str, weights: Path, views: int) -> float:
    """Images a second of a dump that makes the last of so many views, measured as its report does."""
    options = DumpOptions(
        teacher=name,
        data=setting.data,
        cache=str(setting.folder / "cache"),
        weights=weights,
        size=setting.size,
        views=views,
        targets=setting.targets,
        policy=setting.policy if views == 1 else None,
        batch_size=setting.batch_size,
        device=str(setting.device),
        renderer=setting.renderer,
    )
    report = dump(options, silent)
    if report.images_per_s is None:
        raise SystemExit("the dump had nothing to compute: its cache is of another run")
    return report.images_per_s


def measure(setting: Setting, name: str, runs: int) -> Figures:
    """All figures of one teacher: each run has a bare pass and a dump, of which the one begins and then the other."""
    network = create_student(name, num_classes=setting.classes, size=setting.size, seed=0)
    weights = export_model(setting.folder / "weights" / name, network)
    figures = Figures(views_rate(setting))
    bare = BarePass(setting, name, weights)
    dump_rate(setting, name, weights, 1)  # the entry, the order of classes, and whatever is done for the first time
    for run in range(runs):
        if run % 2 == 0:
            figures.bare.append(bare.rate())
        figures.dumped.append(dump_rate(setting, name, weights, run + 2))
        if run % 2:
            figures.bare.append(bare.rate())
    return figures


def row(name: str, figures: Figures, device: torch.device) -> str:
    """The line of the table for one teacher."""
    ratios, bare, dumped = figures.ratios, statistics.median(figures.bare), statistics.median(figures.dumped)
    return (
        f"| {name} | {bare:,.1f} | {figures.spread:.1%} | {dumped:,.1f} | {statistics.median(ratios):.3f} | "
        f"{min(ratios):.3f} to {max(ratios):.3f} | {figures.limit(device):.3f} |"
    )


def refusals(results: dict[str, Figures], device: torch.device) -> list[str]:
    """Why the figures of some teachers show nothing."""
    found = []
    for name, figures in results.items():
        if (limit := figures.limit(device)) < MIN_LIMIT:
            found.append(
                f"{name} is not the bottleneck: making views limits the ratio to {limit:.2f}. Give a larger --size, a "
                "larger teacher or --policy crop."
            )
        if figures.spread > MAX_SPREAD:
            found.append(
                f"The bare passes of {name} differ by {figures.spread:.0%}, so that the machine was busy with other "
                "work: run it again when nothing else runs."
            )
    return found


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, of which `--tiny` has small defaults. Exits where a run would have too few batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", metavar="NAME", help=f"timm names; default {' '.join(TEACHERS)}")
    parser.add_argument("--size", type=int, help="pixels a side of the teachers' images; default 128")
    parser.add_argument("--batch-size", type=int, help="of the teachers; default 16 on the CPU, 128 on a GPU")
    parser.add_argument("--samples", type=int, help=f"of a run; default {MIN_BATCHES} batches")
    parser.add_argument("--runs", type=int, help="of each teacher; default 5")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--policy", default="crop", help="policy of the views")
    parser.add_argument("--renderer", default="dali", choices=("dali", "pillow"))
    parser.add_argument("--targets", default="topk", choices=("topk", "full", "embedding"))
    parser.add_argument("--tiny", action="store_true", help="a rehearsal, whose figures say nothing")
    asked = parser.parse_args(arguments)
    asked.device = resolve_device(asked.device)
    tiny: bool = asked.tiny
    asked.teachers = asked.teachers or (TINY_TEACHERS if tiny else TEACHERS)
    asked.size = asked.size or (32 if tiny else 128)
    asked.batch_size = asked.batch_size or (8 if tiny else 128 if asked.device.type == "cuda" else 16)
    asked.runs = asked.runs or (1 if tiny else 5)
    least = 4 if tiny else MIN_BATCHES
    asked.samples = asked.samples or least * asked.batch_size
    if asked.samples % asked.batch_size or asked.samples < least * asked.batch_size:
        parser.error(
            f"--samples {asked.samples} is not a number of whole batches of {asked.batch_size}, or fewer than {least} "
            f"of them: give {least * asked.batch_size} or another multiple, so that the first and the last batch do "
            "not decide"
        )
    return asked


def main() -> int:
    """Print the table; return 1 where it shows nothing, and say why."""
    asked = parsed(sys.argv[1:])
    use_all_cores()
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as temporary:
        classes = 10 if asked.tiny else 1000
        data = write_images(Path(temporary) / "data", asked, classes)
        for number, name in enumerate(asked.teachers):
            setting = Setting(
                data,
                Path(temporary) / str(number),
                asked.samples,
                asked.size,
                asked.batch_size,
                classes,
                asked.device,
                asked.policy,
                asked.renderer,
                asked.targets,
            )
            results[name] = measure(setting, name, asked.runs)
    machine = processor_name() if asked.device.type == "cpu" else torch.cuda.get_device_name(asked.device)
    print(
        f"{machine}, {cores()} cores; kdcache {kdcache.__version__}, torch {torch.__version__}, timm "
        f"{timm.__version__}; {asked.size} pixels, {resolve_precision('auto', asked.device)}, batches of "
        f"{asked.batch_size}, {asked.samples:,} images a run, {format_count(asked.runs, 'run')}; "
        f"policy {asked.policy}, renderer {asked.renderer}, targets {asked.targets}\n"
    )
    print("| teacher | bare images/s | apart by | dump images/s | dump / bare | least to most | limit |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, figures in results.items():
        print(row(name, figures, asked.device))
    if asked.tiny:
        print("\nA rehearsal: these figures say nothing.")
        return 0
    for reason in (refused := refusals(results, asked.device)):
        print(f"not measured: {reason}", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
