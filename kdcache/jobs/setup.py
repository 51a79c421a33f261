"""What a training is made of before its first step: configuration, views and where answers come from.

Every refusal happens here, before any time is spent.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.data.index import Index, open_index
from kdcache.errors import ConfigError, IdentityError, UsageError
from kdcache.jobs.answers import DEFAULT_BATCH
from kdcache.jobs.batches import LiveTeacher, steps_per_epoch
from kdcache.jobs.opening import OpenViews, new_views, stored_views
from kdcache.models.names import resolve_name
from kdcache.models.teachers import load_teacher
from kdcache.objectives.base import require
from kdcache.progress import Progress
from kdcache.run.config import RunConfig, ViewsConfig, load_config
from kdcache.run.folder import stored_windows
from kdcache.run.recipes import DEFAULT_RECIPE
from kdcache.targets.kinds import make_coding
from kdcache.views.policies import load_policy
from kdcache.views.policy import Policy

Mode = Literal["cache", "live", "supervised"]


@dataclass(frozen=True)
class TrainRequest:
    """What `train` was asked for; None means the default, which the job says.

    Attributes:
        student: timm name.
        data: shards to train on; `val`: labelled shards to evaluate on.
        cache: path of the cache; not read by a supervised training.
        recipe, config, overrides: layers of settings, later over earlier; the options below lie over them.
        out: run folder.
        seed: of the student's first weights and its dropout; views have a seed of their own.
        supervised: learn from labels alone.
        teacher: the entry of the cache to learn from, where it has several.
        online_teacher, teacher_weights: a teacher to run live instead of reading its answers.
        fresh: start anew over what the run folder holds.
    """

    student: str
    data: str
    cache: str | None = None
    val: str | None = None
    epochs: int | None = None
    recipe: str | None = None
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    seed: int | None = None
    batch_size: int | None = None
    supervised: bool = False
    teacher: str | None = None
    online_teacher: str | None = None
    teacher_weights: Path | None = None
    device: str = "auto"
    renderer: str = "dali"
    fresh: bool = False

    @property
    def mode(self) -> Mode:
        """Where answers come from."""
        if self.supervised and self.online_teacher:
            raise UsageError("--supervised trains without a teacher and --online-teacher with one: give one of them.")
        if self.teacher_weights is not None and not self.online_teacher:
            raise UsageError("--teacher-weights belongs to --online-teacher: a cache holds its teacher's answers.")
        if self.teacher is not None and (self.supervised or self.online_teacher):
            raise UsageError("--teacher names an entry of the cache: leave --supervised and --online-teacher out.")
        return "supervised" if self.supervised else "live" if self.online_teacher else "cache"


@dataclass(frozen=True)
class Setup:
    """A training that is ready to begin.

    Attributes:
        entry: the cached answers, if they come from a cache.
        live: the running teacher, if there is one.
        belongs: what the run's results depend on beside its configuration; compared when it is resumed.
    """

    config: RunConfig
    index: Index
    val: Index | None
    opened: OpenViews
    entry: Entry | None
    live: LiveTeacher | None
    num_classes: int
    folder: Path
    belongs: dict[str, Any]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass."""
        return steps_per_epoch(len(self.index), self.config.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.config.schedule.epochs * self.steps_per_epoch

    @property
    def source(self) -> str:
        """Who teaches, in words."""
        if self.entry is not None:
            return f"{self.entry.identity.name} from the cache"
        return f"{self.live.teacher.name} live" if self.live is not None else "labels alone"


def prepare(request: TrainRequest, device: torch.device, progress: Progress) -> Setup:
    """Open everything that `request` names.

    Raises:
        KdcacheError: what does not belong together or is not there, by name.
    """
    _refuse_several_processes()
    mode = request.mode
    config = _configure(request, mode)
    for name in filter(None, (config.student.name, request.online_teacher)):
        resolve_name(name)  # a wrong name is told before an index of millions is built
    index = open_index(request.data, progress=progress)
    val = open_index(request.val, progress=progress) if request.val else None
    has_cache = mode != "supervised" and request.cache is not None and Cache.exists(request.cache)
    if mode == "cache" and not has_cache:
        raise UsageError(
            f"There is no cache at {request.cache}: make one with `kdcache dump-logits --teacher NAME`, give another "
            "--cache, or train with --supervised."
        )
    cache = Cache.open(request.cache) if has_cache and request.cache is not None else None
    folder = request.out or _default_folder(request, config, cache)
    opened = (
        stored_views(cache, index)
        if cache is not None
        else new_views(index, _policy(config), config.views.seed, progress, stored_windows(folder, request.fresh))
    )
    entry = _entry(cache, request.teacher) if mode == "cache" and cache is not None else None
    config = _with_views(config, opened, entry, request, progress)
    live = _live(request, cache, opened, device) if mode == "live" else None
    kind = entry.coding.kind if entry is not None else "full" if live is not None else None
    label_space = _label_space(entry, live)
    require(config.objective.needs, targets=kind, labelled=label_space == "teacher" and int(index.label.min()) >= 0)
    num_classes = _num_classes(index, entry, live)
    setup = Setup(
        config=config,
        index=index,
        val=val,
        opened=opened,
        entry=entry,
        live=live,
        num_classes=num_classes,
        folder=folder,
        belongs={
            "view_set": opened.identity.to_json(),
            "teacher": _teacher_json(entry, live),
            "num_classes": num_classes,
        },
    )
    if setup.steps_per_epoch == 0:
        raise UsageError(
            f"A batch of {config.batch_size} is larger than the {len(index) // 2 * 2:,} paired samples, so an epoch "
            "has no step: give a smaller --batch-size."
        )
    return setup


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "Training over several processes is not there yet: each of them would train a student of its own in the "
            "same folder. Start `kdcache train` once, without torchrun."
        )


def _configure(request: TrainRequest, mode: Mode) -> RunConfig:
    options = {
        "student.name": request.student,
        "schedule.epochs": request.epochs,
        "seed": request.seed,
        "batch_size": request.batch_size,
    }
    config = load_config(
        request.recipe or DEFAULT_RECIPE,
        file=request.config,
        options={name: value for name, value in options.items() if value is not None},
        assignments=request.overrides,
    )
    if mode == "supervised":
        if config.objective.label_loss == "none":
            raise ConfigError(
                "objective.label_loss is none, and --supervised has nothing else to learn from: set it to ce or bce."
            )
        # The label loss is all there is, so its share of the objective is the whole of it.
        alone = dataclasses.replace(config.objective, kd_weight=0.0, label_weight=1.0)
        config = dataclasses.replace(config, objective=alone)
    return config.with_lr_resolved()


def _policy(config: RunConfig) -> Policy:
    policy = config.views.policy
    return load_policy(policy) if isinstance(policy, str) else Policy.from_json(policy)


def _with_views(
    config: RunConfig, opened: OpenViews, entry: Entry | None, request: TrainRequest, progress: Progress
) -> RunConfig:
    """The configuration with the views' own policy, seed and number written out."""
    epochs = config.schedule.epochs
    if entry is not None:
        views = entry.complete_views()
        if views == 0:
            raise UsageError(
                f"{entry.identity.name} has no view in {request.cache} that is complete in every block yet: run the "
                "same `kdcache dump-logits` again to finish it."
            )
        asked = request.epochs is not None or any(
            item.partition("=")[0].strip() == "schedule.epochs" for item in request.overrides
        )
        if epochs > views and asked:
            raise UsageError(
                f"{epochs} epochs need {epochs} views, and {views} are complete in {request.cache}: ask for at most "
                f"{views} epochs, or dump more with --views {epochs}."
            )
        if epochs > views:
            progress.say(f"{views} epochs, one for each complete view of the cache; the recipe has {epochs}.")
            epochs = views
    policy = opened.view_set.policy
    return dataclasses.replace(
        config,
        student=dataclasses.replace(config.student, size=config.student.size or policy.reference_size),
        schedule=dataclasses.replace(
            config.schedule, epochs=epochs, warmup_epochs=min(config.schedule.warmup_epochs, epochs)
        ),
        views=ViewsConfig(policy=policy.to_json(), seed=opened.view_set.seed),
    )


def _entry(cache: Cache, name: str | None) -> Entry:
    names = sorted(cache.teachers())
    if not names:
        raise UsageError(
            f"The cache {cache.location} holds no teacher's answers yet: run `kdcache dump-logits --teacher NAME`."
        )
    if name is None and len(names) > 1:
        raise UsageError(f"The cache {cache.location} holds {', '.join(names)}: choose one with --teacher.")
    if name is not None and name not in names:
        raise UsageError(f"The cache {cache.location} holds no teacher {name!r}; it holds {', '.join(names)}.")
    return cache.entry(name or names[0])


def _live(request: TrainRequest, cache: Cache | None, opened: OpenViews, device: torch.device) -> LiveTeacher:
    """The live teacher, with the settings that the cache has for it."""
    name = request.online_teacher
    assert name is not None
    stored = cache.teachers().get(name) if cache is not None else None
    teacher = load_teacher(
        name,
        request.teacher_weights,
        device=device,
        precision=stored.precision if stored is not None else "auto",
        batch_size=stored.batch_size if stored is not None else min(DEFAULT_BATCH, opened.identity.block_rows),
        size=stored.size if stored is not None else None,
    )
    if stored is not None and stored.weights != teacher.weight_hash:
        raise IdentityError(
            f"The weights of the live teacher {name} are {teacher.weight_hash[:12]}, those of the cache's {name} "
            f"{stored.weights[:12]}: give the same --teacher-weights, or train without --cache.",
            field="weights",
        )
    label_space = stored.label_space if stored is not None else "teacher"
    index = opened.view_set.index
    if label_space == "teacher" and index.num_classes != teacher.num_classes:
        label_space = "none"
    return LiveTeacher(teacher, make_coding("full", teacher.num_classes), label_space, opened.identity.block_rows)


def _label_space(entry: Entry | None, live: LiveTeacher | None) -> str:
    if entry is not None:
        return entry.identity.label_space
    return live.label_space if live is not None else "teacher"


def _num_classes(index: Index, entry: Entry | None, live: LiveTeacher | None) -> int:
    if entry is not None:
        return entry.identity.num_classes
    return live.teacher.num_classes if live is not None else index.num_classes


def _teacher_json(entry: Entry | None, live: LiveTeacher | None) -> dict[str, Any] | None:
    if entry is not None:
        return entry.identity.to_json()
    if live is None:
        return None
    return {"name": live.teacher.name, "weights": live.teacher.weight_hash, "live": True}


def _default_folder(request: TrainRequest, config: RunConfig, cache: Cache | None) -> Path:
    """One folder for each student, recipe, source and seed, so that the same command finds its run again."""
    source = {"supervised": "alone", "live": f"live-{request.online_teacher}"}.get(request.mode)
    if source is None:
        names = sorted(cache.teachers()) if cache is not None else []
        source = request.teacher or (names[0] if names else "cache")
    recipe = Path(config.recipe).stem
    return Path("runs") / f"{config.student.name}-{recipe}-{source}-seed{config.seed}"
