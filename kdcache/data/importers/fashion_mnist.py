"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747) as shards of grey 28x28 PNG images."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from kdcache.data.importers.idx import read_idx
from kdcache.data.importers.pixels import PixelSamples
from kdcache.data.importers.shard_import import ImportFolder, ImportOptions, random_order
from kdcache.errors import DataError, UsageError
from kdcache.runtime.progress import Progress, logged

Split = Literal["train", "test"]

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

SAMPLE = "sample"
"""Name of the source for the part of the data set that kdcache ships."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder in which Debian's package dataset-fashion-mnist installs the whole data set."""

_PREFIXES = {"train": "train", "test": "t10k"}


def fashion_mnist_sources() -> dict[str, Traversable]:
    """Return the folders from which the set can be had here, best first: "debian" (if installed) and "sample"."""
    sources: dict[str, Traversable] = {"debian": DEBIAN} if (DEBIAN / "train-images-idx3-ubyte.gz").is_file() else {}
    return {**sources, SAMPLE: files("kdcache.data") / "sample"}


def import_fashion_mnist(
    out: Path,
    *,
    split: Split,
    source: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    samples_per_shard: int = 1000,
    progress: Progress = logged,
) -> int:
    """Write a split as shards to `out`, in random order, and return the number of images.

    source: a folder with the four files of the set (`train-images-idx3-ubyte.gz`, ..., also as .xz), or "sample"; None
        takes the first of `fashion_mnist_sources`.
    limit: take the first so many of the random order. A key (`train-00042`) tells the place in the original order.

    Raises UsageError for an unknown split and a limit below 1, and DataError when the source lacks a file or has a
    damaged one, and as `ImportFolder` does; FolderHeldError when another process writes `out`.
    """
    if split not in _PREFIXES:
        raise UsageError(f"Fashion-MNIST has no split {split!r}. Take train or test.")
    if limit is not None and limit < 1:
        raise UsageError(f"A limit of {limit} leaves no image. Give a number from 1.")
    with ImportFolder(out, progress) as folder:
        name, place = _source(source)
        images, labels = _read(place, split)
        samples = PixelSamples([f"{split}-{number:05d}" for number in range(len(images))], images, labels)
        order = random_order(samples.keys, seed)[:limit]
        if limit is not None and limit > len(order):
            progress.warn(f"{name} has {len(order)} {split} images, fewer than the limit of {limit}; all are taken")
        folder.write(samples, order, CLASS_NAMES, ImportOptions(seed, samples_per_shard))
        progress.say(f"imported {len(order)} {split} images of Fashion-MNIST from {name} into {out}")
        return len(order)


def _source(source: str | Path | None) -> tuple[str, Traversable]:
    known = fashion_mnist_sources()
    if source is None:
        source = next(iter(known))
    if str(source) not in known:
        return str(source), Path(source)
    folder = known[str(source)]
    return ("the sample that kdcache ships" if str(source) == SAMPLE else str(folder)), folder


def _read(folder: Traversable, split: Split) -> tuple[UInt8[np.ndarray, "n 28 28"], UInt8[np.ndarray, " n"]]:
    images = read_idx(_file(folder, f"{_PREFIXES[split]}-images-idx3-ubyte"), 3)
    labels = read_idx(_file(folder, f"{_PREFIXES[split]}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or labels.max(initial=0) >= len(CLASS_NAMES):
        raise DataError(
            f"{folder} does not hold Fashion-MNIST: its {split} split has images of shape {images.shape} and "
            f"{len(labels)} labels up to {labels.max(initial=0)}. Name the folder with its original files."
        )
    return images, labels


def _file(folder: Traversable, name: str) -> Traversable:
    for file in (folder / f"{name}.gz", folder / f"{name}.xz"):
        if file.is_file():
            return file
    raise DataError(
        f"There is no {name}.gz in {folder}. Name the folder that holds the four files of Fashion-MNIST, "
        "or leave --source out to take the sample that kdcache ships."
    )
