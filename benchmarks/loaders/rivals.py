"""Loaders that a user could take in place of kdcache's, each with the nearest to the same settings that it offers.

All make random resized crops, flips, RandAugment of two operations at magnitude 7 of 10, mixup or CutMix by chance, and
normalised float32 batches, or crops and flips alone. They differ in what is theirs: timm's loader mixes bytes in its
collate function; webdataset reads the same shards as kdcache, and Pillow decodes and augments as for timm; torchvision
decodes to tensors and augments these; DALI reads, decodes and augments in its own threads. Only timm has the increasing
severities and the noise on magnitudes of `rand-m7-mstd0.5-inc1`. All go on from one epoch to the next without a pause.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm.data
import torch
from torch import Tensor

MEAN, STD = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
#: timm's RandAugment `m7` counts magnitudes to 10; torchvision and DALI have the bins 0 to 30.
MAGNITUDE_BIN, OPERATIONS = 21, 2
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
#: Samples that webdataset draws from at random, before they are decoded.
SHUFFLED = 512


@dataclass(frozen=True)
class Settings:
    """What all loaders are asked for.

    Attributes:
        folder: where `tree` is an ImageFolder tree and `shards` has the same images in tar files.
        size: pixels a side.
        batch: images of a batch.
        workers: processes, or threads.
        classes: number of classes.
        auto_augment: RandAugment as timm writes it; None for crops and flips alone.
        mixup, cutmix: alpha of each; 0 for none.
    """

    folder: Path
    size: int
    batch: int
    workers: int
    classes: int
    auto_augment: str | None
    mixup: float
    cutmix: float


def of_timm(asked: Settings, mode: str) -> Iterator[Tensor]:
    """Batches as timm's training script makes them, with its prefetcher; `mode` is that of its mixing."""
    mixes = asked.mixup > 0 or asked.cutmix > 0
    mixup = timm.data.FastCollateMixup(
        mixup_alpha=asked.mixup,
        cutmix_alpha=asked.cutmix,
        mode=mode,
        label_smoothing=0.0,
        num_classes=asked.classes,
    )
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(asked.folder / "tree"), is_training=True),
        input_size=(3, asked.size, asked.size),
        batch_size=asked.batch,
        is_training=True,
        auto_augment=asked.auto_augment,
        color_jitter=None,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=asked.workers,
        collate_fn=mixup if mixes else None,
        device=torch.device("cpu"),
        use_multi_epochs_loader=True,  # workers go on from one epoch to the next, as kdcache does
    )
    while True:
        for pixels, _ in loader:
            yield pixels


def of_webdataset(asked: Settings) -> Iterator[Tensor]:
    """Batches from tar files that worker processes read at random, augmented with Pillow by timm's transforms."""
    import webdataset

    transform = timm.data.create_transform(
        asked.size,
        is_training=True,
        auto_augment=asked.auto_augment,
        color_jitter=None,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
    )
    shards = sorted(map(str, (asked.folder / "shards").glob("*.tar")))
    # Every worker draws from all shards, so that there may be fewer shards than workers.
    samples = webdataset.WebDataset(shards, resampled=True, shardshuffle=False)
    batches = (
        samples.shuffle(SHUFFLED)
        .decode("pilrgb")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, int)
        .batched(asked.batch, partial=False)
    )
    yield from _mixed(webdataset.WebLoader(batches, batch_size=None, num_workers=asked.workers), asked)


class _Endless:
    """Shuffled batches of sample numbers, without end."""

    def __init__(self, samples: int, batch: int) -> None:
        self._samples, self._batch = samples, batch

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield from (
                torch.randperm(self._samples)[: self._samples // self._batch * self._batch]
                .view(-1, self._batch)
                .tolist()
            )


def of_torchvision(asked: Settings) -> Iterator[Tensor]:
    """Batches of torchvision's `v2` transforms on tensors, decoded and augmented by worker processes."""
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    augment = [] if asked.auto_augment is None else [v2.RandAugment(OPERATIONS, MAGNITUDE_BIN)]
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(asked.size, scale=AREA, ratio=ASPECT, antialias=True),
            v2.RandomHorizontalFlip(),
            *augment,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    images = ImageFolder(
        str(asked.folder / "tree"), transform, loader=lambda path: decode_image(path, ImageReadMode.RGB)
    )
    loader = torch.utils.data.DataLoader(
        images, batch_sampler=_Endless(len(images), asked.batch), num_workers=asked.workers
    )
    yield from _mixed(loader, asked)


def _mixed(batches: Any, asked: Settings) -> Iterator[Tensor]:
    """The images of batches with labels, mixed by torchvision with one weight for a batch."""
    from torchvision.transforms import v2

    made: list[Callable[..., Any]] = []
    if asked.mixup > 0:
        made.append(v2.MixUp(alpha=asked.mixup, num_classes=asked.classes))
    if asked.cutmix > 0:
        made.append(v2.CutMix(alpha=asked.cutmix, num_classes=asked.classes))
    mix = v2.RandomChoice(made) if made else None
    for pixels, labels in batches:
        yield pixels if mix is None else mix(pixels, torch.as_tensor(labels))[0]


def of_dali_reader(asked: Settings) -> Iterator[Tensor]:
    """Batches of a pipeline that is all DALI's: it reads, decodes what the crop needs, resizes and augments."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug.rand_augment import rand_augment
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(  # type: ignore[misc]
        enable_conditionals=True, batch_size=asked.batch, num_threads=asked.workers, device_id=None, seed=0
    )
    def pipeline() -> Any:
        encoded, label = fn.readers.file(file_root=str(asked.folder / "tree"), random_shuffle=True)
        images = fn.decoders.image_random_crop(
            encoded, output_type=types.RGB, random_area=AREA, random_aspect_ratio=ASPECT
        )
        images = fn.resize(images, size=(asked.size, asked.size), interp_type=types.INTERP_LINEAR)
        images = fn.flip(images, horizontal=fn.random.coin_flip())
        if asked.auto_augment is not None:
            images = rand_augment(images, n=OPERATIONS, m=MAGNITUDE_BIN)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
        )
        return images, label

    made = pipeline()
    batches = DALIGenericIterator(made, ["pixels", "labels"])  # without a size it has no end
    yield from _mixed(((batch[0]["pixels"], batch[0]["labels"].long().flatten()) for batch in batches), asked)
