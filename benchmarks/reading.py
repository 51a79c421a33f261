"""What reading a teacher's targets costs a training: CPU time and memory by kind of targets, as Markdown.

    python benchmarks/reading.py [--rate 2500] [--chunks 8]

A cache of each kind is written to a temporary folder, and a process of its own reads it as a training does: batches
of 1,024 rows, a view in order or seen again (`kdcache.loader.schedule`), chunks read ahead by a thread, checked,
decoded, put together by another, and given their labels. A step is what 1,024 images take at `--rate` images a second
on the training's device; it is longer by what the host waits for targets when it sleeps for a step between two
batches, as while a GPU computes. CPU time is of all threads. The targets are those of the tests' simulated teacher of
1,000 classes, which for 21,841 stand among others that share a twentieth.

It needs a checkout with its test dependencies. `docs/speed.md` has what it printed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from target_codecs.sources import simulated
from torch import Tensor

from kdcache.cache.entry import Entry
from kdcache.cache.identity import TeacherIdentity, ViewSetIdentity, windows_checksum
from kdcache.cache.store import Cache
from kdcache.cache.stream import stream_targets
from kdcache.loader.schedule import Schedule
from kdcache.targets.base import TargetCodec, Targets
from kdcache.targets.class_order_calibration import learn_order
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.full import FullCodec
from kdcache.targets.head import Head
from kdcache.targets.topk import TopKTargets
from kdcache.targets.topk_codec import TopKCodec
from kdcache.views.viewset import RowIndices

BATCH = 1024
NAME = "teacher"
#: Number of different rows; blocks are filled with them over and over, which changes the time of reading by little.
DISTINCT = 2048
BLOCK_ROWS = 131072
#: Steps that are slept through.
STEPS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2500, help="images a second that the student trains at")
    parser.add_argument("--chunks", type=int, default=8, help="chunks of each kind that are read, at least")
    parser.add_argument("--classes", type=int, nargs="*", default=[1000, 21841])
    parser.add_argument("--features", type=int, default=2048, help="that enter the teacher's classifier")
    parser.add_argument("--only", default="", metavar="TEXT", help="kinds whose name contains this")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cycle", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read is not None:
        read(asked.read, BATCH / asked.rate, asked.cycle)
        return
    step = BATCH / asked.rate
    print(f"| targets | classes | order | a step of {step * 1000:.0f} ms is longer by | ms of CPU a batch | MB |")
    print("|---|---:|---|---:|---:|---:|")
    for classes in asked.classes:
        outputs = simulated_outputs(classes)
        for name, codec in codecs(outputs, asked.features).items():
            if asked.only not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder) / "cache", codec, outputs, asked.chunks)
                for cycle, order in enumerate(("as it lies", "seen again")):
                    command = [sys.executable, __file__, "--read", f"{folder}/cache", "--rate", str(asked.rate)]
                    command += ["--cycle", str(cycle)]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    seconds, memory, waited = map(float, done.stdout.split())
                    row = f"{waited / step:.2%} | {seconds * 1000:.1f} | {memory:.0f}"
                    print(f"| {name} | {classes:,} | {order} | {row} |", flush=True)


def codecs(outputs: tuple[Tensor, Tensor], features: int) -> dict[str, TargetCodec]:
    """Every kind of targets, by the name that the table gives it."""
    classes = outputs[0].shape[1]
    topk = TopKCodec(classes)
    kept = topk.select(*outputs)
    assert isinstance(kept, TopKTargets)
    head = Head(np.random.default_rng(0).normal(size=(classes, features + 1)).astype(np.float32) / 16)
    return {
        "topk, p > 0.0033": replace(topk, order=learn_order(kept, None)),
        "full, uint8": FullCodec(classes, "uint8"),
        "full, float32": FullCodec(classes),
        f"embedding of {features:,}, uint8": EmbeddingCodec(classes, features, "uint8", head),
        f"embedding of {features:,}, float16": EmbeddingCodec(classes, features, "float16", head),
    }


def simulated_outputs(classes: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities float32 [n, classes] and labels int64 [n, 2]."""
    made = simulated(DISTINCT, 0, 1000)
    log_probs, labels = made.stored, made.labels
    if classes <= 1000:
        return torch.log_softmax(log_probs[:, :classes], 1), labels % classes
    random = torch.Generator().manual_seed(0)
    place = torch.randperm(classes, generator=random)
    others = torch.log_softmax(torch.randn(len(log_probs), classes - 1000, generator=random), 1)
    whole = torch.empty(len(log_probs), classes)
    whole[:, place[:1000]] = log_probs + np.log(0.95)
    whole[:, place[1000:]] = others + np.log(0.05)
    return torch.log_softmax(whole, 1), torch.where(labels < 0, -1, place[labels.clamp(min=0)])


def write(path: Path, codec: TargetCodec, outputs: tuple[Tensor, Tensor], chunks: int) -> None:
    """A cache of one view, one block, and some chunks."""
    rows = min(BLOCK_ROWS, max(chunks * codec.chunk_rows(BLOCK_ROWS), STEPS * BATCH))
    block_rows = 1 << (rows - 1).bit_length()
    windows = np.zeros(rows, np.int32)
    view_set = ViewSetIdentity("0" * 64, rows, windows_checksum(windows), {}, 0, block_rows)
    teacher = TeacherIdentity(
        NAME, "none", "0", (0.5,) * 3, (0.5,) * 3, 224, "fp32", BATCH, codec.identity(), codec.num_classes
    )
    entry = Cache.create(path, view_set, windows).add_teacher(teacher, codec)
    log_probs, labels = outputs
    width = codec.num_features if isinstance(codec, EmbeddingCodec) else 1
    features = torch.randn(DISTINCT, width, generator=torch.Generator().manual_seed(0)).relu()
    writer = entry.open_block(0, 0)
    for start in range(0, rows, DISTINCT):
        part = slice(0, min(DISTINCT, rows - start))
        writer.append(codec.select(log_probs[part], labels[part], features[part]))
    writer.finish({})
    np.save(path / "labels.npy", labels.numpy())


def read(path: Path, step: float, cycle: int) -> None:
    """Print seconds of CPU time a batch, megabytes that reading took, and seconds that a step waits."""
    labels = torch.from_numpy(np.load(path / "labels.npy"))
    entry = Cache.open(path).entry(NAME)
    schedule = Schedule(entry.layout.samples, 1, 1, BATCH, cycle + 1, entry.layout.block_rows, 0)
    wanted = list(schedule.batches(cycle * schedule.steps_per_epoch))
    before = _memory("VmRSS")
    start = time.process_time()
    for rows, targets in zip(wanted, _stream(entry, wanted), strict=True):
        targets.with_labels(labels[rows.row % DISTINCT])
    seconds = (time.process_time() - start) / len(wanted)
    memory = _memory("VmHWM") - before
    print(seconds, memory, waited(entry, wanted, labels, step))


def waited(entry: Entry, wanted: list[RowIndices], labels: Tensor, step: float) -> float:
    """Mean seconds for which a training's steps wait for targets, the first one aside, where chunks change."""
    change = entry.layout.chunk_rows // BATCH
    start_at = max(0, min(change - STEPS // 2, len(wanted) - STEPS))
    some = wanted[start_at : start_at + STEPS]
    stream = _stream(entry, some)
    next(stream)
    waits = []
    for rows in some[1:]:
        time.sleep(step)
        start = time.perf_counter()
        next(stream).with_labels(labels[rows.row % DISTINCT])
        waits.append(time.perf_counter() - start)
    stream.close()
    return sum(waits) / len(waits)


def _stream(entry: Entry, wanted: list[RowIndices]) -> Generator[Targets, None, None]:
    return stream_targets(entry, ((rows.view, rows.row) for rows in wanted))


def _memory(name: str) -> float:
    """Megabytes of this process, now (VmRSS) or at most so far (VmHWM), as Linux says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    main()
