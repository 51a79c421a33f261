"""A data set with the cached targets of its teachers, opened for a training loop of one's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import distributed

from kdcache.cache.store import Cache
from kdcache.data.index import Index, open_index
from kdcache.errors import UsageError
from kdcache.io.limits import MAX_BATCH, MAX_EPOCHS, MAX_SIZE
from kdcache.io.plain_values import is_whole, shown
from kdcache.loader.cached_loader import CachedLoader
from kdcache.loader.cached_teachers import (
    CachedTeachers,
    describe_scaled_weights,
    log_repeated_views,
    open_cached_teachers,
)
from kdcache.loader.loader import Loader
from kdcache.loader.opening import OpenViews, log_lost, stored_views, with_lost_of
from kdcache.loader.provenance import warn_of_other_renderer
from kdcache.loader.schedule import Schedule, require_steps, require_whole_pairs
from kdcache.models.network import Normaliser
from kdcache.runtime.device import resolve_device
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.python_words import in_python_words, python_words
from kdcache.runtime.ranks import Ranks
from kdcache.views.policy import Policy


@dataclass(frozen=True)
class CachedDataset:
    """A data set, the views of it that a cache was made of, and the cached targets of one teacher or of several.

    `open_cache` makes it. It holds no image and no target in memory; `loader` gives batches of them.

    Attributes:
        index: index of the data set.
        views: view set of the cache, with its identity.
        teachers: entries of the cache with their weights, which sum to 1.
        num_views: number of views that are used, from view 0 on; whole groups of views that share an order.
        progress: receives the messages about this data set and its loaders.

    Example:
        >>> dataset = kdcache.open_cache("cache", data="data")
        >>> len(dataset), dataset.num_classes, dataset.num_views
        (50000, 10, 100)
    """

    index: Index
    views: OpenViews
    teachers: CachedTeachers
    num_views: int
    progress: Progress = logged

    def __repr__(self) -> str:
        """Name what it holds, in a line."""
        return (
            f"CachedDataset({len(self):,} samples, {self.num_classes:,} classes, {self.num_views} views, "
            f"teacher {self.teachers.name})"
        )

    def __len__(self) -> int:
        """Number of samples, the lost ones included."""
        return len(self.index)

    @property
    def num_classes(self) -> int:
        """Number of classes of the teacher, and so of the student's outputs."""
        return self.teachers.num_classes

    @property
    def policy(self) -> Policy:
        """The distribution of augmentations that the views were drawn from."""
        return self.views.view_set.policy

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in their order; None where they are unknown, or labels are no classes of the teacher."""
        return self.index.class_names if self.teachers.label_space == "teacher" else None

    @property
    def entries(self) -> Mapping[str, float]:
        """Names of the teachers' entries in the cache, each with its weight; the weights sum to 1."""
        names = (entry.identity.name for entry in self.teachers.entries)
        return MappingProxyType(dict(zip(names, self.teachers.shares, strict=True)))

    @in_python_words()
    def loader(
        self,
        batch_size: int,
        epochs: int,
        *,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str | torch.device = "auto",
        rank: int | None = None,
        world_size: int | None = None,
        renderer: str = "dali",
        decode: str = "auto",
        start_step: int = 0,
    ) -> CachedLoader:
        """Return a loader of the batches that `kdcache train` sees with the same batch size and number of epochs.

        Args:
            batch_size: rows of a step over all processes together; a multiple of 2 * world_size, because pairs stay
                whole. An epoch's last partial batch is left out.
            epochs: number of passes over the data; epoch e shows view e, and views are shown again in new batches where
                there are fewer of them.
            image_size: pixels a side; None for the reference size of the policy. It may differ from the teacher's.
            mean, std: mean and standard deviation of each channel for pixels in 0..1, as
                `timm.data.resolve_model_data_config(model)` has them; None for those of ImageNet.
            device: device of images, labels and targets: "auto" (a GPU where there is one), "cpu", "cuda"
                or "cuda:N".
            rank, world_size: process whose part of each batch is loaded, and number of processes; None for those of
                torch.distributed where it is initialised, or else of the environment variables RANK and WORLD_SIZE,
                or else a single process.
            renderer: "dali" or "pillow".
            decode: device that decodes images: "auto", "cpu", "gpu" or "hardware".
            start_step: number of steps, counted from the start of epoch 0, after which to begin.

        Raises:
            UsageError: an argument that makes no sense, or a batch that cannot be divided among the processes.
            DeviceError: the device or the renderer cannot be used here.
            CorruptError: a record of the views that are used is damaged.

        Example:
            >>> with dataset.loader(batch_size=256, epochs=100, image_size=160) as loader:
            ...     for epoch in range(100):
            ...         for batch in loader:
            ...             loss = train_step(batch.images, batch.targets.log_probs())
        """
        batch_size = _whole_number("batch_size", batch_size, 2, MAX_BATCH)
        epochs = _whole_number("epochs", epochs, 1, MAX_EPOCHS)
        size = self.policy.reference_size if image_size is None else image_size
        size = _whole_number("image_size", size, 1, MAX_SIZE)
        ranks = _ranks(rank, world_size)
        require_whole_pairs(batch_size, ranks.world_size)
        view_set = self.views.view_set
        schedule = require_steps(
            Schedule(
                samples=len(view_set),
                views=self.num_views,
                repeats=view_set.policy.repeats,
                batch_size=batch_size,
                epochs=epochs,
                block_rows=self.views.identity.block_rows,
                seed=view_set.seed,
            )
        )
        start_step = _whole_number("start_step", start_step, 0, schedule.steps)
        resolved_device = resolve_device(str(device))
        warn_of_other_renderer(self.teachers.entries, renderer, decode, resolved_device, self.num_views, self.progress)
        log_repeated_views(epochs, self.num_views, schedule.repeats, self.teachers, self.progress)
        loader = Loader(
            view_set=view_set,
            schedule=schedule,
            source=self.teachers,
            image_size=size,
            renderer=renderer,
            decode=decode,
            device=resolved_device,
            ranks=ranks,
            normalise=_normaliser(mean, std),
        )
        return CachedLoader(self, loader, start_step)


@in_python_words()
def open_cache(
    cache: str | Path,
    *,
    data: str | Path,
    teacher: str | None = None,
    teachers: Mapping[str, int | float] | None = None,
    views: int | None = None,
    progress: Progress = logged,
) -> CachedDataset:
    """Open a cache together with the data set that it was made of, and refuse what `kdcache train` refuses.

    Args:
        cache: path or URL of the cache, as `kdcache dump-logits` made it.
        data: shards of the data set: a folder of tars, a brace pattern, or a URL. Its index is built if there is none.
        teacher: name of the entry to learn from; None for the only one of the cache.
        teachers: names of several entries, each with a weight above 0; the targets are the weighted mean of their
            probabilities. Weights are divided by their sum.
        views: number of views to use, from view 0 on; None for all that are complete.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Raises:
        UsageError: there is no cache, no such entry, or no complete view.
        IdentityError: the cache was made of other data, or the teachers cannot be mixed.
        CacheError: the cache cannot be read; CorruptError where a record is damaged.
        DataError: the data cannot be read.

    Example:
        >>> dataset = kdcache.open_cache("cache", data="data")
        >>> mixture = kdcache.open_cache("cache", data="data", teachers={"beitv2_b": 0.7, "resnet152": 0.3})
    """
    if teacher is not None and teachers is not None:
        raise UsageError("teacher names one entry of the cache and teachers several: give one of them.")
    if not Cache.exists(str(cache)):
        raise UsageError(
            f"There is no cache at {cache}: make one with `kdcache dump-logits --teacher NAME`, or give the path of "
            "another."
        )
    opened_cache = Cache.open(str(cache))
    mixture = None if teachers is None else mixture_text(teachers)
    stored = open_cached_teachers(opened_cache, teacher, mixture)
    for warning in (mixture and describe_scaled_weights(mixture), opened_cache.format_warning):
        if warning:
            progress.warn(python_words(warning))
    index = open_index(str(data), progress=progress)
    opened = stored_views(opened_cache, index)
    count = _view_count(stored, opened.view_set.policy.repeats, views)
    # Lost samples are looked up after the views are counted: see `with_lost_of`.
    opened = with_lost_of(opened, opened_cache)
    stored.require_records(count)
    log_lost(opened, progress)
    return CachedDataset(index, opened, stored, count, progress)


def _view_count(stored: CachedTeachers, repeats: int, wanted: int | None) -> int:
    usable = stored.usable_views(repeats)
    if wanted is None:
        return usable
    if not is_whole(wanted) or not 1 <= wanted <= usable or wanted % repeats:
        groups = f", a multiple of {repeats}" if repeats > 1 else ""
        raise UsageError(
            f"views is {shown(wanted)}, and {format_count(usable, 'view')} can be used: give a number from 1 to "
            f"{usable}{groups}."
        )
    return int(wanted)


def mixture_text(teachers: Mapping[str, int | float]) -> str:
    """Return weights by name as `parse_teachers` reads them from the command line.

    Raises:
        UsageError: what is given are no names with weights above 0.
    """
    if not isinstance(teachers, Mapping):
        raise UsageError(f"teachers is {shown(teachers)}: give names with weights, such as {{'a': 0.7, 'b': 0.3}}.")
    if not teachers:
        raise UsageError("teachers names no entry of the cache: give each a weight, such as {'a': 0.7, 'b': 0.3}.")
    given: Mapping[Any, Any] = teachers
    for name, weight in given.items():
        if not isinstance(name, str) or "=" in name or "," in name:
            raise UsageError(f"There is no teacher {name!r}: the names of a cache's entries hold no '=' and no ','.")
        if not isinstance(weight, Real) or not 0 < float(weight) < float("inf"):
            raise UsageError(
                f"teachers gives {name} the weight {weight!r}: give each name a finite weight above 0, such as "
                "{'a': 0.7, 'b': 0.3}."
            )
    return ",".join(f"{name}={float(weight)!r}" for name, weight in teachers.items())


def _ranks(rank: int | None, world_size: int | None) -> Ranks:
    """Return rank and world size: as given, from torch.distributed, or from the environment, in this order."""
    if (rank is None) != (world_size is None):
        raise UsageError("rank and world_size belong together: give both, or none of them.")
    if rank is not None and world_size is not None:
        world_size = _whole_number("world_size", world_size, 1, MAX_BATCH)
        return Ranks(_whole_number("rank", rank, 0, world_size - 1), world_size)
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return Ranks.from_environment()


def _normaliser(mean: Sequence[float] | None, std: Sequence[float] | None) -> Normaliser:
    means = _of_channels("mean", IMAGENET_DEFAULT_MEAN if mean is None else mean)
    stds = _of_channels("std", IMAGENET_DEFAULT_STD if std is None else std)
    if not all(part > 0 for part in stds):
        raise UsageError(f"std is {shown(std)}: give one number for each of three channels, each std above 0.")
    return Normaliser(means, stds)


def _of_channels(name: str, values: Sequence[float]) -> tuple[float, ...]:
    try:
        found = tuple(map(float, values))
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(map(isfinite, found)):
        raise UsageError(f"{name} is {shown(values)}: give one number for each of three channels.")
    return found


def _whole_number(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number of any kind as Python's own, as NumPy's are refused in a checkpoint of weights alone."""
    if not is_whole(value) or not least <= value <= most:
        raise UsageError(f"{name} is {shown(value)}: give a whole number from {least:,} to {most:,}.")
    return int(value)
