"""Small real shard sets for tests, written with webdataset alone, by nothing that is itself tested."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Sample(NamedTuple):
    """One encoded image, as it goes into a shard; `label` None leaves the `.cls` member out."""

    key: str
    ext: str
    data: bytes
    label: int | None


def draw_image(rng: np.random.Generator, height: int, width: int, label: int) -> np.ndarray:
    """A colour gradient, soft waves and a little noise, uint8 [height, width, 3]; the label tints it."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    tint = 0.5 + 0.35 * np.cos(2 * np.pi * (label * 0.61803 + np.array([0.0, 1 / 3, 2 / 3])))
    slope = rng.uniform(-0.4, 0.4, (2, 3))
    image = tint + (x - 0.5)[..., None] * slope[0] + (y - 0.5)[..., None] * slope[1]
    for _ in range(3):
        frequency, phase = rng.uniform(-3, 3, 2), rng.uniform(0, 2 * np.pi)
        image += 0.08 * np.sin(2 * np.pi * (frequency[0] * x + frequency[1] * y) + phase)[..., None]
    image += rng.normal(0, 0.03, (height, width, 3))
    return (image.clip(0, 1) * 255).astype(np.uint8)


def encode_image(pixels: np.ndarray, format: str) -> bytes:
    """The bytes of a `jpg` or `png` file with these pixels."""
    buffer = io.BytesIO()
    if format == "png":
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_samples(
    images: int = 64,
    size: tuple[int, int] = (40, 50),
    classes: int = 10,
    seed: int = 0,
    format: str = "jpg",
    varied: bool = False,
    labelled: bool = True,
) -> list[Sample]:
    """Samples `img-00000` onwards with labels 0, 1, 2, ... in turn; sample i depends on `seed` and i alone.

    `size` is (height, width); `varied` draws each side anew between half of it and the double.
    """
    samples = []
    for number in range(images):
        rng = np.random.default_rng([seed, number])
        height, width = size
        if varied:
            height, width = (int(side * 2 ** rng.uniform(-1, 1)) for side in size)
        label = number % classes
        pixels = draw_image(rng, height, width, label)
        key = f"img-{number:05d}"
        samples.append(Sample(key, format, encode_image(pixels, format), label if labelled else None))
    return samples


def write_tar(path: Path, samples: Sequence[Sample]) -> Path:
    """One shard of these samples, in this order."""
    from webdataset.writer import TarWriter

    with path.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        for sample in samples:
            parts: dict[str, str | bytes] = {"__key__": sample.key, sample.ext: sample.data}
            if sample.label is not None:
                parts["cls"] = str(sample.label).encode()
            tar.write(parts)
    return path


def write_set(folder: Path, samples: Sequence[Sample], shards: int, class_names: bool = True) -> Path:
    """All samples in order over `shards` tars of nearly equal size, with `classes.json`; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    share = math.ceil(len(samples) / shards)
    for shard in range(shards):
        write_tar(folder / f"shard-{shard:06d}.tar", samples[shard * share : (shard + 1) * share])
    labels = [sample.label for sample in samples if sample.label is not None]
    if class_names and labels:
        names = [f"class {label}" for label in range(max(labels) + 1)]
        (folder / "classes.json").write_text(json.dumps(names))
    return folder


def make_shards(
    folder: Path,
    images: int = 64,
    size: tuple[int, int] = (40, 50),
    classes: int = 10,
    shards: int = 3,
    seed: int = 0,
    format: str = "jpg",
    varied: bool = False,
    labelled: bool = True,
    shuffle: int | None = None,
) -> Path:
    """A folder of `shards` tars: the samples of `make_samples`, in their order or shuffled by `shuffle`.

    Two calls that differ in `shards` or `shuffle` alone hold the same samples.
    """
    samples = make_samples(images, size, classes, seed, format, varied, labelled)
    if shuffle is not None:
        samples = [samples[i] for i in np.random.default_rng(shuffle).permutation(len(samples))]
    return write_set(folder, samples, shards)
