"""A teacher that answers while a student trains: the baseline for speed and the oracle for exactness."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcache.cache.identity import TeacherIdentity
from kdcache.cache.store import Cache
from kdcache.errors import CacheError, IdentityError, UsageError
from kdcache.loader.opening import OpenViews, entry_name
from kdcache.loader.teacher_views import DEFAULT_BATCH, teacher_labels
from kdcache.models.source import ModelSource, model_source
from kdcache.models.teachers import Teacher, load_teacher
from kdcache.objectives.base import Layers
from kdcache.runtime.progress import Progress
from kdcache.targets.base import Capabilities, TargetCodec, Targets
from kdcache.targets.full import FullCodec
from kdcache.targets.live import LIVE_CAPABILITIES, LiveTargets
from kdcache.views.stream import Views


@dataclass(frozen=True)
class LiveTeacher:
    """A teacher that answers while the student trains, in the batches that `dump-logits` would use.

    Attributes:
        codec: `full`, so that a live answer passes through the same form as a stored one.
        block_rows: of the view set; batches do not cross a block.
        features: whether to say what entered the classifier.
        layers: whose feature maps to give; None for none.
    """

    teacher: Teacher
    codec: TargetCodec
    label_space: str
    block_rows: int
    features: bool = False
    layers: Layers | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the targets can give to an objective."""
        return LIVE_CAPABILITIES

    def answer(self, views: Views) -> Targets:
        """What it says of some views, as `dump-logits` would keep it, and beside it what else is asked for."""
        said = self.teacher.answer(views.pixels, features=self.features, maps=self.layers)
        kept = self.codec.select(said.log_probs, teacher_labels(views, self.label_space))
        return LiveTargets(kept, said.features, said.maps) if self.features or said.maps else kept


def open_live_teacher(
    name: str,
    weights: Path | None,
    entry: str | None,
    cache: Cache | None,
    opened: OpenViews,
    device: torch.device,
    progress: Progress,
    *,
    features: bool = False,
    layers: Layers | None = None,
) -> LiveTeacher:
    """The live teacher, with the settings that the cache has for it.

    Args:
        name, weights: as `model_source` has them.
        entry: of the cache, whose settings it takes; None for the one of its name or architecture, if there is one.
        features, layers: what else it shall say; see `LiveTeacher`.

    Raises:
        UsageError: the cache has no such entry.
        IdentityError: the entry was made with other weights.
        ModelError: as `load_teacher` does, or features are asked for and there are none.
    """
    source = model_source(name, weights)
    stored = _stored_teacher(source, entry, cache)
    teacher = load_teacher(
        source.name,
        source.weights,
        label=source.label,
        device=device,
        precision=stored.precision if stored is not None else "auto",
        batch_size=stored.batch_size if stored is not None else min(DEFAULT_BATCH, opened.identity.block_rows),
        size=stored.size if stored is not None else None,
    )
    if stored is not None and stored.weights != teacher.weight_hash:
        raise IdentityError(
            f"The weights of the live teacher {name} are {teacher.weight_hash[:12]}, those of the cache's "
            f"{stored.name} {stored.weights[:12]}: give the weights that it was dumped with, or a --cache that holds "
            "nothing.",
            field="weights",
        )
    if features:
        _ = teacher.num_features  # refuses a teacher that has none
    progress.say(
        f"{name} answers live in {teacher.precision}, in batches of {teacher.batch_size}"
        + (f", as {stored.name} did in the cache." if stored is not None else ".")
    )
    index = opened.view_set.index
    same_classes = index.num_classes == teacher.num_classes
    label_space = stored.label_space if stored is not None else "teacher" if same_classes else "none"
    return LiveTeacher(
        teacher,
        FullCodec(teacher.num_classes),
        label_space,
        opened.identity.block_rows,
        features=features,
        layers=layers,
    )


def _stored_teacher(source: ModelSource, entry: str | None, cache: Cache | None) -> TeacherIdentity | None:
    if entry is not None:
        stored = cache.teacher(entry) if cache is not None else None
        if stored is None:
            there = ", ".join(cache.names()) if cache is not None else ""
            raise UsageError(f"The cache holds no teacher {entry!r}; it holds {there or 'none'}.")
        return stored
    if cache is None:
        return None
    if (named := cache.teacher(entry_name(source.label))) is not None:
        return named
    alike = teachers_of(cache, source.architecture)
    return alike[0] if len(alike) == 1 else None


def teachers_of(cache: Cache, architecture: str | None) -> list[TeacherIdentity]:
    """The teachers of an architecture, by name; without those of whom it cannot be read, which concerns nobody else."""
    found = []
    for name in cache.names():
        with suppress(CacheError):
            identity = cache.teacher(name)
            if identity is not None and identity.architecture == architecture:
                found.append(identity)
    return found
