"""A teacher that runs while a student trains: the baseline for speed and the reference for exactness."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.cache.identity import TeacherIdentity, require_same
from kdcache.cache.store import Cache
from kdcache.errors import CacheError, IdentityError, UsageError
from kdcache.loader.opening import OpenViews, entry_name
from kdcache.loader.teacher_views import DEFAULT_BATCH, teacher_labels
from kdcache.models.source import ModelSource, model_source
from kdcache.models.teacher_module import TeacherModule, run_as_teacher
from kdcache.models.teachers import Teacher, describe_compiled, load_teacher
from kdcache.objectives.settings import Layers
from kdcache.runtime.progress import Progress
from kdcache.runtime.transfer import HostCopies, copy_to_host, to_device
from kdcache.targets.base import Capabilities, Targets, are_log_probs
from kdcache.targets.full import FullCodec, FullTargets
from kdcache.targets.live import LIVE_CAPABILITIES, LiveTargets
from kdcache.views.stream import Views


@dataclass(frozen=True)
class WantedTeacher:
    """The live teacher that was asked for.

    Attributes:
        name, weights: model and weights, as `model_source` has them.
        entry: name of the cache's entry whose settings are taken; None for the entry of the same name or
            architecture, if there is one.
        features, layers: further outputs that its targets hold; see `LiveTeacher`.
        compile: backend of torch.compile; None for no compilation, whatever the entry was dumped with.
    """

    name: str
    weights: Path | None
    entry: str | None = None
    features: bool = False
    layers: Layers | None = None
    compile: str | None = None


@dataclass(frozen=True)
class LiveTeacher:
    """A teacher that runs while the student trains, in the batches that `dump-logits` would use.

    Attributes:
        teacher: teacher that runs.
        codec: codec `full`, whose targets the live ones are, without their way to the host and back.
        label_space: "teacher" where labels are the teacher's classes, "none" where they are others.
        block_rows: number of rows of a block of the view set; batches do not cross a block.
        features: whether targets hold the inputs of the teacher's classifier.
        layers: layers whose feature maps the targets hold; None for none.
    """

    teacher: Teacher
    codec: FullCodec
    label_space: str
    block_rows: int
    features: bool = False
    layers: Layers | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the targets can give to an objective."""
        return LIVE_CAPABILITIES

    def compute_targets(self, views: Views, checks: "OutputChecks") -> Targets:
        """Compute targets of a batch of views as `dump-logits` would keep them, with features and maps if requested.

        They stay on the teacher's device, and the host does not wait for them.

        Args:
            views: one batch of views.
            checks: checks of the batches before, which gets that of this one.

        Raises:
            ModelError: the output of this batch or of the one before is no log-probabilities, or of other classes.
            UsageError: a label of one of them is not among the classes.
        """
        output = self.teacher.compute_output(views.pixels, features=self.features, maps=self.layers)
        labels = teacher_labels(views, self.label_space)
        checks.add(_OutputCheck(self.codec, output.log_probs, labels, copy_to_host([are_log_probs(output.log_probs)])))
        kept = FullTargets(output.log_probs, to_device(labels, output.log_probs.device))
        return LiveTargets(kept, output.features, output.maps) if self.features or output.maps else kept


@dataclass(frozen=True, eq=False)
class _OutputCheck:
    """The check of one batch's output, which a device may still be computing."""

    codec: FullCodec
    log_probs: Float[Tensor, "b c"]
    labels: Int64[Tensor, "b 2"]
    copies: HostCopies

    def require(self) -> None:
        """Wait for the check, and raise what `TargetCodec.check_outputs` raises."""
        (is_sound,) = self.copies.wait()
        self.codec.check_outputs(self.log_probs, self.labels, is_sound)


class OutputChecks:
    """The checks of a teacher's outputs: each is looked at as soon as it is there, at the latest a batch later.

    So the device has its next batch before the host asks about one. On the CPU each is looked at at once.
    """

    def __init__(self) -> None:
        self._last: _OutputCheck | None = None

    def add(self, check: _OutputCheck) -> None:
        """Look at the check of the batch before; at `check` as well if it is there already."""
        self.finish()
        if check.copies.are_there:
            check.require()
        else:
            self._last = check

    def finish(self) -> None:
        """Look at the check of the last batch, if that was not done yet."""
        last, self._last = self._last, None
        if last is not None:
            last.require()


def open_live_teacher(
    wanted: WantedTeacher, cache: Cache | None, opened: OpenViews, device: torch.device, progress: Progress
) -> LiveTeacher:
    """Load the live teacher, with the settings that the cache has for it.

    Args:
        wanted: the model, and what its targets hold.
        cache: cache whose entries are looked at; None for none.
        opened: views that the teacher computes targets of.
        device: device that the teacher runs on.
        progress: receives the messages.

    Raises:
        UsageError: the cache has no such entry.
        IdentityError: the entry was made with other weights.
        ModelError: the model cannot be loaded, or features are requested and it has none.
    """
    source = model_source(wanted.name, wanted.weights)
    stored = _stored_teacher(source, wanted.entry, cache)
    teacher = load_teacher(
        source.name,
        source.weights,
        label=source.label,
        device=device,
        precision=stored.precision if stored is not None else "auto",
        batch_size=stored.batch_size if stored is not None else min(DEFAULT_BATCH, opened.identity.block_rows),
        size=stored.size if stored is not None else None,
    )
    teacher.compile(wanted.compile)
    if stored is not None and stored.weights != teacher.weight_hash:
        raise IdentityError(
            f"The weights of the live teacher {wanted.name} are {teacher.weight_hash[:12]}, those of the cache's "
            f"{stored.name} {stored.weights[:12]}: give the weights that it was dumped with, or a --cache that holds "
            "nothing.",
            field="weights",
        )
    if wanted.features:
        _ = teacher.num_features  # refuses a teacher that has none
    progress.say(
        f"{wanted.name} computes targets live in {teacher.precision}, in batches of {teacher.batch_size}"
        + describe_compiled(teacher)
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
        features=wanted.features,
        layers=wanted.layers,
    )


def open_live_module(
    own: TeacherModule, stored: TeacherIdentity, cache: Cache, opened: OpenViews, device: torch.device
) -> LiveTeacher:
    """Return a module as the live teacher, with the settings that the cache has for the entry that it made.

    Raises:
        IdentityError: the entry was made with another module, version, preprocessing or weights.
        ModelError: as `run_as_teacher` does.
    """
    teacher = run_as_teacher(own, device=device, precision=stored.precision, batch_size=stored.batch_size)
    now = replace(
        stored,
        architecture=teacher.architecture,
        weights=teacher.weight_hash,
        mean=teacher.mean,
        std=teacher.std,
        size=teacher.size,
        num_classes=teacher.num_classes,
    )
    require_same(stored, now, f"The teacher {stored.name} in {cache.location}")
    return LiveTeacher(teacher, FullCodec(teacher.num_classes), stored.label_space, opened.identity.block_rows)


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
    """Return the cache's teachers of an architecture, by name, without those whose identity cannot be read.

    A damaged entry is no reason to refuse a live teacher: it may be of another architecture.
    """
    found = []
    for name in cache.names():
        with suppress(CacheError):
            identity = cache.teacher(name)
            if identity is not None and identity.architecture == architecture:
                found.append(identity)
    return found
