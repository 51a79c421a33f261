"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their binary archives, as shards of 32x32 PNG images.

A record of CIFAR-10 is a byte of the label and 3,072 bytes of pixels, the red plane before the green and the blue one,
each by rows; a record of CIFAR-100 has two bytes of labels, the coarse one first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from kdcache.data.importers.pixels import PixelSamples
from kdcache.data.importers.shard_import import ImportFolder, ImportOptions, random_order
from kdcache.data.importers.tar_source import unreadable
from kdcache.errors import DataError, UsageError
from kdcache.io.archives import read_archive
from kdcache.io.reading import read_bytes
from kdcache.runtime.progress import Progress, logged

Split = Literal["train", "test"]
Labels = Literal["fine", "coarse"]

_SIDE = 32
_COUNTS = {"train": 50_000, "test": 10_000}
_PIXELS = 3 * _SIDE * _SIDE
#: Bytes of one file; the largest, CIFAR-100's train.bin, has 154 MB.
_MAX_BYTES = 2**28
_EXPECTED = "Name cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or the folder that it unpacks to"


@dataclass(frozen=True)
class _Set:
    """One of the two sets: its name, files by split, and names of classes by their kind, in a record's order."""

    name: str
    files: dict[str, tuple[str, ...]]
    classes: dict[str, tuple[str, int]]


_CIFAR_10 = _Set(
    "CIFAR-10",
    {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    {"fine": ("batches.meta.txt", 10)},
)
_CIFAR_100 = _Set(
    "CIFAR-100",
    {"train": ("train.bin",), "test": ("test.bin",)},
    {"coarse": ("coarse_label_names.txt", 20), "fine": ("fine_label_names.txt", 100)},
)
_KNOWN = frozenset(
    name
    for one in (_CIFAR_10, _CIFAR_100)
    for names in (*one.files.values(), tuple(file for file, _ in one.classes.values()))
    for name in names
)
_PYTHON = frozenset({"data_batch_1", "test_batch", "batches.meta", "train", "test", "meta"})


def import_cifar(
    src: Path,
    out: Path,
    *,
    split: Split = "train",
    labels: Labels = "fine",
    options: ImportOptions | None = None,
    progress: Progress = logged,
) -> int:
    """Write a split of CIFAR-10 or CIFAR-100 to shards in `out`, in random order, and return the number of images.

    Args:
        src: `cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz`, or the folder that it unpacks to. Which set it is
            its files tell. A key (`train-00042`) tells the place in the original order.
        split: "train" or "test".
        labels: "fine", or "coarse" for CIFAR-100's 20 groups of classes.
        options: seed, resizing and threads.

    Raises:
        UsageError: an unknown split, or labels that the set does not have.
        DataError: the source holds another version of the set, is damaged or incomplete.
        FolderHeldError: another process writes `out`.
    """
    options = options or ImportOptions()
    with ImportFolder(out, progress) as folder:
        files = _read_source(src, split)
        whole = _CIFAR_100 if "fine_label_names.txt" in files else _CIFAR_10
        if split not in whole.files:
            raise UsageError(f"CIFAR has no split {split!r}. Take train or test.")
        if labels not in whole.classes:
            raise UsageError(f"{whole.name} has no {labels} labels: leave out --labels.")
        class_names = _class_names(src, whole, labels, files)
        images, numbers = _records(src, whole, split, labels, files)
        if len(images) != _COUNTS[split]:
            progress.warn(
                f"{src} holds {len(images):,} {split} images, and {whole.name} has {_COUNTS[split]:,}; those that "
                "are there are imported"
            )
        samples = PixelSamples([f"{split}-{number:05d}" for number in range(len(images))], images, numbers)
        count = folder.write(samples, random_order(samples.keys, options.seed), class_names, options)
        progress.say(f"imported {count} {split} images of {whole.name} from {src} into {out}")
        return count


def _read_source(src: Path, split: str) -> dict[str, bytes]:
    """Return the files of the names of classes and those of a split, by base name."""
    found: dict[str, bytes] = {}
    seen: list[str] = []
    other = {name for one in (_CIFAR_10, _CIFAR_100) for part in one.files if part != split for name in one.files[part]}
    wanted = _KNOWN - other
    try:
        if src.is_dir():
            for path in sorted([*src.iterdir(), *src.glob("cifar-*/*")]):
                seen.append(path.name)
                if path.name in wanted:
                    found[path.name] = read_bytes(path, _MAX_BYTES)
        else:
            seen, found = read_archive(src, wanted, _MAX_BYTES)
    except OSError as error:
        raise unreadable(src, error) from error
    _require_binary(src, seen)
    return found


def _require_binary(src: Path, names: Iterable[str]) -> None:
    """Raise DataError for the versions of the sets that are no plain bytes, and for what is none of them."""
    there = set(names)
    if there & _KNOWN:
        return
    if there & _PYTHON:
        raise DataError(
            f"{src} is the Python version of CIFAR, whose files are pickled. Reading a pickle can run code that "
            "its author put into it, so kdcache reads none. Download the binary version, which holds the same images: "
            "cifar-10-binary.tar.gz or cifar-100-binary.tar.gz."
        )
    raise DataError(f"{src} does not hold the binary version of CIFAR. {_EXPECTED}.")


def _class_names(src: Path, whole: _Set, labels: str, files: dict[str, bytes]) -> list[str]:
    file, count = whole.classes[labels]
    names = files.get(file, b"").decode("utf-8", "replace").split()
    if len(names) != count:
        raise DataError(f"{file} in {src} names {len(names)} classes, and {whole.name} has {count}. {_EXPECTED}.")
    return names


def _records(
    src: Path, whole: _Set, split: str, labels: str, files: dict[str, bytes]
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], UInt8[np.ndarray, " n"]]:
    """Return the images and labels of a split, in their original order."""
    width = len(whole.classes) + _PIXELS
    parts = []
    for name in whole.files[split]:
        if not files.get(name):
            raise DataError(f"There is no {name} in {src}, or it is empty. Download {whole.name} again.")
        if len(files[name]) % width:
            raise DataError(
                f"{name} in {src} has {len(files[name]):,} bytes, which are no whole records of {width:,}: it is cut "
                f"short or of another set. Download {whole.name} again."
            )
        parts.append(np.frombuffer(files[name], np.uint8).reshape(-1, width))
    rows = np.concatenate(parts)
    numbers = rows[:, list(whole.classes).index(labels)]
    count = whole.classes[labels][1]
    if numbers.max() >= count:
        raise DataError(
            f"{src} has the label {numbers.max()}, and {whole.name} has {count} classes: it is damaged, or of another "
            f"set. Download {whole.name} again."
        )
    pixels = rows[:, len(whole.classes) :].reshape(-1, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), np.ascontiguousarray(numbers)
