"""What is computed once for all samples, or once a view, for data sets of millions: CPU time and memory.

    python benchmarks/scale.py [--samples N ...] [--runs N]

An index of N samples is made column by column, without an image: 1,000 samples a shard, 21,841 classes at random. Each
measurement is a process of its own on one core, which opens that index, reads the columns once and then does one
thing; a figure is the median of the runs. CPU time is of all threads. Memory is the highest of the process, less what
it had before: the columns are mapped files, whose pages the system shares between processes and takes back at need.

An epoch is planned in steps of 4,096 rows for all processes: which samples each of its own rows shows, and how they
are augmented. It is done as the first of 1, 8 and 64 processes would, one of which runs. Targets are `topk` rows of
1,000 classes, read, checked and decoded in the order of the view.

It needs Linux. `docs/speed.md` has what it printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcache.cache.identity import ViewSetIdentity, windows_checksum
from kdcache.cache.layout import default_block_rows
from kdcache.data.columns import COLUMNS, KEY_START, Source, save
from kdcache.data.index import Index, load_index
from kdcache.data.index_writer import IndexWriter, seal
from kdcache.data.order import derive_windows
from kdcache.data.scan import ShardTable
from kdcache.loader.schedule import Schedule
from kdcache.views.policy import Policy
from kdcache.views.viewset import ViewSet

if TYPE_CHECKING:
    from kdcache.cache.entry import Entry

SAMPLES = (1_000_000, 4_000_000, 14_000_000)
SAMPLES_A_SHARD, CLASSES = 1000, 21841
KEY_LENGTH = 12
PIECE = 1 << 20
SEED, GROUP = 0, 5
#: Rows of a step of all processes.
BATCH = 4096
#: Different rows of targets, which are written over and over, and their classes.
DISTINCT, TARGET_CLASSES = 2048, 1000


def write_index(folder: Path, samples: int) -> None:
    """Shards without content, and the index of `samples` images in them, in `folder`."""
    shards = -(-samples // SAMPLES_A_SHARD)
    (folder / "shards").mkdir(parents=True)
    (folder / "index").mkdir()
    for number in range(shards):
        (folder / "shards" / f"{number:06d}.tar").touch()
    rng = np.random.default_rng(samples)
    key_hash = rng.integers(0, 2**64, samples, dtype=np.uint64)
    key_hash.sort()
    limits = {"shard": (0, shards), "offset": (0, 2**27), "length": (20_000, 200_000), "label": (0, CLASSES)}

    def random(name: str) -> Iterator[np.ndarray]:
        low, high = limits.get(name, (200, 600))  # height and width
        for start in range(0, samples, PIECE):
            yield rng.integers(low, high, min(PIECE, samples - start))

    def keys() -> Iterator[np.ndarray]:
        for start in range(0, samples, PIECE):
            numbers = range(start, min(start + PIECE, samples))
            yield np.frombuffer("".join(f"{number:0{KEY_LENGTH}d}" for number in numbers).encode(), np.uint8)

    for name, dtype in COLUMNS.items():
        save(folder / "index", name, dtype, [key_hash] if name == "key_hash" else random(name), samples)
    save(folder / "index", "key_start", KEY_START, [np.arange(samples + 1) * KEY_LENGTH], samples + 1)
    save(folder / "index", "key_bytes", np.dtype("u1"), keys(), samples * KEY_LENGTH)
    seal(folder / "index", source_of(folder))


def source_of(folder: Path) -> Source:
    """The shards that `write_index` left in `folder`."""
    shards = sorted((folder / "shards").iterdir())
    return Source.of(folder / "shards", [str(shard) for shard in shards], unlabelled=False)


def opened(folder: Path) -> Index:
    """The index that `write_index` left in `folder`, whose columns have been read."""
    index = load_index(folder / "index", source_of(folder))
    assert index is not None
    for name in COLUMNS:
        column = getattr(index, name)
        for start in range(0, len(column), PIECE):
            column[start : start + PIECE].max()
    return index


def windows_of(index: Index) -> np.ndarray:
    """The window of each sample."""
    return derive_windows(np.asarray(index.shard), np.asarray(index.label), len(index.shards)).ids


def index_built(index: Index) -> Callable[[], object]:
    """The index out of what was found in the shards, whose keys this makes meanwhile, at some cost."""
    folder, samples = index.path.parent, len(index)
    source, powers = source_of(folder), 10 ** np.arange(KEY_LENGTH - 1, -1, -1)
    same = {name: np.full(SAMPLES_A_SHARD, 500) for name in ("offset", "length", "height", "width", "label")}

    def table(first: int) -> ShardTable:
        numbers = np.arange(first, min(first + SAMPLES_A_SHARD, samples))
        keys = (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8).tobytes()
        rest = {name: column[: len(numbers)] for name, column in same.items()}
        return ShardTable(keys, np.full(len(numbers), KEY_LENGTH), **rest)

    def build() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as built:
            writer = IndexWriter(Path(built), source)
            for shard, first in enumerate(range(0, samples, SAMPLES_A_SHARD)):
                writer.add(shard, table(first))
            writer.finish()

    return build


def index_opened(index: Index) -> Callable[[], object]:
    """The index found and opened again, its shards listed and compared with those that it was built from."""
    folder = index.path.parent
    return lambda: load_index(folder / "index", source_of(folder))


def epoch_planned(index: Index, processes: int) -> Callable[[], object]:
    """The rows of each step of an epoch that the first of some processes takes, and their augmentations."""
    view_set = ViewSet(index, Policy(), SEED, windows_of(index))
    view_set.order(0)  # which is measured by itself
    schedule = Schedule(len(index), 1, 1, BATCH, 1, default_block_rows(len(index)), SEED)

    def plan() -> None:
        for rows in schedule.batches(0, 0, processes):
            view_set.rows(rows)

    return plan


def targets_read(index: Index) -> Callable[[], object]:
    """The targets of a view, batch by batch."""
    from kdcache.cache.stream import stream_targets

    samples = len(index)
    entry = entry_with_targets(index.path.parent / "targets", samples)
    schedule = Schedule(samples, 1, 1, BATCH, 1, default_block_rows(samples), SEED)

    def read() -> None:
        for _ in stream_targets(entry, ((rows.view, rows.row) for rows in schedule.batches())):
            pass

    return read


def entry_with_targets(folder: Path, samples: int) -> Entry:
    """The entry of a teacher with one view of `samples` rows, which the first call writes."""
    import torch

    from kdcache.cache.identity import TeacherIdentity
    from kdcache.cache.store import Cache
    from kdcache.targets.topk_codec import TopKCodec

    if folder.exists():
        return Cache.open(folder).entry("teacher")
    codec, windows = TopKCodec(TARGET_CLASSES), np.zeros(samples, np.int32)
    block_rows = default_block_rows(samples)
    view_set = ViewSetIdentity("0" * 64, samples, windows_checksum(windows), {}, SEED, block_rows)
    half = (0.5,) * 3
    teacher = TeacherIdentity(
        "teacher", "none", "0", half, half, 224, "fp32", BATCH, codec.identity(), codec.num_classes
    )
    entry = Cache.create(folder, view_set, windows).add_teacher(teacher, codec)
    logits = torch.randn(DISTINCT, TARGET_CLASSES, generator=torch.Generator().manual_seed(SEED)) * 3
    targets = codec.select(torch.log_softmax(logits, 1), torch.full((DISTINCT, 2), -1))
    for block, first in enumerate(range(0, samples, block_rows)):
        rows, writer = min(block_rows, samples - first), entry.open_block(0, block)
        for start in range(0, rows, DISTINCT):
            writer.append(targets[: min(DISTINCT, rows - start)])
        writer.finish({})
    return entry


def order_of_a_view(index: Index) -> Callable[[], object]:
    """The samples in the order of a view, in windows of 64 shards."""
    view_set = ViewSet(index, Policy(), SEED, windows_of(index))
    return lambda: view_set.order(GROUP)


def order_in_one_window(index: Index) -> Callable[[], object]:
    """The same, for shards in class order."""
    view_set = ViewSet(index, Policy(), SEED, np.zeros(len(index), np.int32))
    return lambda: view_set.order(GROUP)


def order_seen_again(index: Index) -> Callable[[], object]:
    """The pairs in the order of a view that is shown for the second time."""
    block_rows = default_block_rows(len(index))
    orders = Schedule(len(index), 1, 1, 1024, 2, block_rows, SEED).reused_orders()
    return lambda: orders.get(1)


def windows(index: Index) -> Callable[[], object]:
    """Windows from shards and labels, once for a new cache or run, and their checksum."""
    return lambda: windows_checksum(windows_of(index))


def windows_read(index: Index) -> Callable[[], object]:
    """Windows out of a cache, and their checksum."""
    # Here, because these import torch and zarr: seconds in which the other measurements would do nothing.
    from kdcache.cache.locations import open_files
    from kdcache.cache.windows import read_windows, write_windows

    ids = windows_of(index)
    folder = index.path.parent / "cache"
    view_set = ViewSetIdentity(
        index.fingerprint, len(ids), windows_checksum(ids), {}, SEED, default_block_rows(len(ids))
    )
    files = open_files(folder)
    if not folder.exists():
        files.flush(write_windows(files, ids))
    return lambda: read_windows(files, view_set)


MEASUREMENTS: dict[str, Callable[[Index], Callable[[], object]]] = {
    "index built": index_built,
    "index opened": index_opened,
    "order of a view": order_of_a_view,
    "order of a view, one window": order_in_one_window,
    "order of a view seen again": order_seen_again,
    "windows made": windows,
    "windows read": windows_read,
    **{f"epoch planned, process 1 of {count}": partial(epoch_planned, processes=count) for count in (1, 8, 64)},
    "targets of a view": targets_read,
}


def measure(name: str, folder: Path) -> tuple[float, float]:
    """CPU seconds, and megabytes beside the mapped columns, of one measurement in this process."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    work = MEASUREMENTS[name](opened(folder))
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what there is now
    before = memory("VmRSS")
    start = time.process_time()
    work()
    return time.process_time() - start, memory("VmHWM") - before


def memory(name: str) -> float:
    """Megabytes of this process, now (VmRSS) or at most so far (VmHWM), as Linux says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES, help="of the data sets")
    parser.add_argument("--runs", type=int, default=3, help="of each measurement")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(*measure(asked.measure[0], Path(asked.measure[1])))
        return
    print("| what | samples | CPU s | CPU s a million | MB beside the columns |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        folders = {samples: Path(temporary) / str(samples) for samples in asked.samples}
        for samples, folder in folders.items():
            write_index(folder, samples)
        for name in MEASUREMENTS:
            for samples, folder in folders.items():
                command = [sys.executable, __file__, "--measure", name, str(folder)]
                runs = [
                    tuple(map(float, subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()))
                    for _ in range(asked.runs)
                ]
                seconds, megabytes = (statistics.median(run[place] for run in runs) for place in (0, 1))
                each = seconds / samples * 1e6
                print(f"| {name} | {samples:,} | {seconds:.2f} | {each:.3f} | {megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
