"""Views a second on the CPU: kdcache's whole path beside other loaders, same images, same settings, same cores.

    python benchmarks/loader.py [--views N] [--runs N] [--workers N]
    python benchmarks/loader.py --crops     # without RandAugment and mixing

Beside timm's `create_loader` stand webdataset with Pillow, torchvision's v2 transforms and a pipeline that is all
DALI's (`loaders/rivals.py` says how they differ). Random resized crops of photographs to 224 pixels, flip, RandAugment
`rand-m7-mstd0.5-inc1`, mixup 0.1 or cutmix 1.0, normalised float32 batches. Each run is a process of its own, and the
contestants take turns. All of them make batches ahead, so the clock starts when as many have been taken as may have
been made ahead, and stops while they go on making more: what is measured is what was made meanwhile. A run that would
measure fewer than three times as many is refused.
Prints a Markdown table: the median of the runs, their spread, and how many views a second of CPU time made, which other
programs on the machine disturb less, each also as a multiple of the faster of timm's two loaders, with the least and
the most of the runs, and of DALI's own pipeline. Needs Linux, scikit-image, webdataset, torchvision and DALI.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as kdcache's own commands set it

import numpy as np
import skimage.data
import timm
import torch
from loaders.rivals import MEAN, STD, Settings, of_dali_reader, of_timm, of_torchvision, of_webdataset
from PIL import Image

from kdcache.data.importers.folder import import_folder
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.models.network import Normaliser
from kdcache.render.opening import open_renderer
from kdcache.views.policy import Policy
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowRange, ViewSet

SIZE, BATCH = 224, 128
RAND_AUGMENT, MIXUP, CUTMIX = "rand-m7-mstd0.5-inc1", 0.1, 1.0
PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "immunohistochemistry", "retina", "hubble_deep_field")
HEIGHT, WIDTH, QUALITY, CLASSES = 375, 500, 90, 8
#: Batches that kdcache makes ahead: in the renderer, behind it, and those that wait for the consumer.
AHEAD = 8
#: Batches that timm's loader makes ahead for each worker.
AHEAD_OF_WORKER = 2
#: So many times as many batches as are made ahead are measured, at least.
MEASURED = 3

CONTESTANTS = {
    "kdcache-dali": "kdcache, DALI",
    "kdcache-pillow": "kdcache, Pillow",
    "timm-pair": "timm, mixing in pairs as kdcache",
    "timm-batch": "timm, one mixing weight a batch (its default)",
    "webdataset": "webdataset, Pillow with timm's transforms",
    "torchvision": "torchvision v2 on tensors",
    "dali-reader": "DALI's own pipeline",
}
DALI_ITSELF = "dali-reader"


def write_photographs(folder: Path, images: int) -> None:
    """Random pieces of scikit-image's photographs, of ImageNet's usual size, as an ImageFolder tree of JPEGs."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    for number in range(images):
        source = sources[number % len(sources)]
        width = WIDTH * min(source.width / WIDTH, source.height / HEIGHT, rng.uniform(0.9, 1.4))
        height = width * HEIGHT / WIDTH
        left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        box = (left, top, left + width, top + height)
        piece = source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
        path = folder / f"class-{number % CLASSES}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        piece.save(path, "JPEG", quality=QUALITY)


def made_ahead(workers: int) -> int:
    """The most batches that a contestant may have made before they are asked for."""
    return max(AHEAD, AHEAD_OF_WORKER * workers + 1)


def of_kdcache(asked: Settings, renderer_name: str) -> Iterator[torch.Tensor]:
    """Batches of views as a student is fed them, without end."""
    index = open_index(asked.folder / "shards")
    policy = Policy(auto_augment=asked.auto_augment or "", mixup=asked.mixup, cutmix=asked.cutmix)
    view_set = ViewSet(index, policy, 0, np.zeros(len(index), np.int32))
    size = asked.batch
    rows = len(index) // size * size
    row_ranges = (RowRange(row // rows, row % rows, row % rows + size) for row in count(0, size))
    normalise = Normaliser(MEAN, STD)
    with (
        SampleReader(index) as reader,
        open_renderer(renderer_name, size=asked.size, max_batch=asked.batch, threads=asked.workers) as it,
    ):
        for made in stream_views(view_set, reader, it, row_ranges):
            yield normalise(made.pixels)


def cpu_seconds() -> float:
    """CPU time of this process and its children so far."""
    total = 0.0
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for pid in (str(os.getpid()), *children):
        # Behind the command's name in brackets come the fields from the third on; times are the 14th and 15th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(batches: Iterable[torch.Tensor], warm_up: int, measured: int) -> tuple[float, float]:
    """Views a second, and views a second of CPU time, of `measured` batches behind the first `warm_up`."""
    start, cpu, seen, touched = 0.0, 0.0, 0, 0.0
    for number, batch in enumerate(batches, start=1):
        assert (batch.shape, batch.dtype) == ((BATCH, 3, SIZE, SIZE), torch.float32)
        touched += float(batch[-1, 0, 0, 0])
        if number == warm_up:
            start, cpu = time.perf_counter(), cpu_seconds()
        elif number > warm_up:
            seen += len(batch)
        if number == warm_up + measured:
            return seen / (time.perf_counter() - start), seen / (cpu_seconds() - cpu)
    raise SystemExit("there were fewer batches than asked for")


def batches_of(contestant: str, asked: Settings) -> Iterator[torch.Tensor]:
    """Batches of one contestant, without end."""
    side, _, kind = contestant.partition("-")
    if side in ("kdcache", "timm"):
        return (of_kdcache if side == "kdcache" else of_timm)(asked, kind)
    return {"webdataset": of_webdataset, "torchvision": of_torchvision, DALI_ITSELF: of_dali_reader}[contestant](asked)


def run(contestant: str, folder: Path, views: int, workers: int, crops: bool) -> None:
    """One run, in this process: prints its two numbers."""
    torch.set_num_threads(workers)
    augmented = (None, 0.0, 0.0) if crops else (RAND_AUGMENT, MIXUP, CUTMIX)
    batches = batches_of(contestant, Settings(folder, SIZE, BATCH, workers, CLASSES, *augmented))
    warm_up = made_ahead(workers)
    print(*measure(batches, warm_up, views // BATCH - warm_up))
    sys.stdout.flush()
    os._exit(0)  # timm's workers run ahead for ever; they end with their parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="JPEGs in the data set")
    parser.add_argument("--views", type=int, default=4608, help="of one run, with those not measured")
    parser.add_argument("--runs", type=int, default=5, help="of each contestant")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes or threads")
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS), help="these contestants")
    parser.add_argument("--crops", action="store_true", help="crops and flips alone")
    parser.add_argument("--run", nargs=2, metavar=("CONTESTANT", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warm_up, batches = made_ahead(asked.workers), asked.views // BATCH
    if batches < (1 + MEASURED) * warm_up:
        parser.error(
            f"--views {asked.views} is {batches} batches of {BATCH}, of which {warm_up} may have been made before the "
            f"clock starts: give at least --views {(1 + MEASURED) * warm_up * BATCH}, so that {MEASURED} times as many "
            "are measured"
        )
    if asked.images < BATCH:
        parser.error(f"--images {asked.images} does not make a batch: give at least {BATCH}")
    if asked.run:
        run(asked.run[0], Path(asked.run[1]), asked.views, asked.workers, asked.crops)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder / "tree", asked.images)
        import_folder(folder / "tree", folder / "shards")
        sizes = [path.stat().st_size for path in (folder / "tree").rglob("*.jpg")]
        print(f"{asked.images} JPEGs of {WIDTH} x {HEIGHT}, {statistics.mean(sizes) / 1000:.0f} kB each; ", end="")
        print(f"{batches - warm_up} batches of {BATCH} measured a run, behind {warm_up}; ", end="")
        print(f"{asked.workers} workers; Pillow {Image.__version__}, timm {timm.__version__}", flush=True)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in asked.only}
        for _ in range(asked.runs):
            for name in asked.only:
                command = [sys.executable, __file__, "--run", name, temporary]
                command += ["--views", str(asked.views), "--workers", str(asked.workers), *["--crops"] * asked.crops]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                wall, cpu = map(float, done.stdout.split()[-2:])
                results[name].append((wall, cpu))
    print("", *table(results), sep="\n")


def table(results: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[str]:
    """Yield the lines of the table; results are views a second and views a second of CPU time, run by run."""
    timms = {name: statistics.median(wall for wall, _ in runs) for name, runs in results.items() if "timm" in name}
    bases = [results.get(max(timms, key=timms.__getitem__, default="")), results.get(DALI_ITSELF)]
    ratios = "/ timm | / timm, CPU s | / DALI's own | / DALI's own, CPU s"
    yield f"| loader | views/s | least to most | views/CPU s | {ratios} |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name, runs in results.items():
        walls = [wall for wall, _ in runs]
        wall, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in runs)
        found = [_ratio(runs, base, place) for base in bases for place in (0, 1)]
        spread = f"{min(walls):.0f} to {max(walls):.0f}"
        yield f"| {CONTESTANTS[name]} | {wall:.0f} | {spread} | {cpu:.0f} | {' | '.join(found)} |"


def _ratio(runs: Sequence[tuple[float, float]], base: Sequence[tuple[float, float]] | None, place: int) -> str:
    """Return the multiple of a base run by run: the median, the least and the most; nothing without a base."""
    if base is None:
        return ""
    found = [mine[place] / other[place] for mine, other in zip(runs, base, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


if __name__ == "__main__":
    main()
