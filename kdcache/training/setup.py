"""Preparation of a training before its first step: configuration, views and the source of targets.

Every refusal happens here, before any time is spent.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.store import Cache
from kdcache.data.classes import check_labels
from kdcache.data.index import Index, find_index, open_index
from kdcache.errors import ConfigError, UsageError
from kdcache.io.folder_lock import FolderLock
from kdcache.loader.cached_teachers import (
    CachedTeachers,
    describe_scaled_weights,
    log_repeated_views,
    open_cached_teachers,
)
from kdcache.loader.following import wait_for_first_views
from kdcache.loader.live_teacher import LiveTeacher, WantedTeacher, open_live_teacher
from kdcache.loader.loader import Loader
from kdcache.loader.opening import OpenViews, log_lost, new_views, stored_views, with_lost_of
from kdcache.loader.schedule import Schedule, require_whole_pairs
from kdcache.models.names import resolve_name
from kdcache.models.source import model_source
from kdcache.models.students import InitialWeights, load_initial_weights
from kdcache.objectives.base import require
from kdcache.render.opening import renderer_version
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.progress import Progress
from kdcache.targets.base import Capabilities
from kdcache.training.checkpoint import Checkpoints
from kdcache.training.config import RunConfig, chosen_objective
from kdcache.training.configure import configure, describe_label_loss
from kdcache.training.loggers import require_loggers
from kdcache.training.naming import default_folder
from kdcache.training.options import Mode, TrainOptions
from kdcache.training.run_folder import RunFolder, stored_windows
from kdcache.training.source import (
    capabilities_of,
    describe_unlabelled,
    label_space_of,
    num_classes_of,
    teacher_to_json,
)
from kdcache.training.views import (
    policy_of,
    prepare_orders,
    require_whole_parts,
    schedule_of,
    with_view_count,
    with_views,
)
from kdcache.version import __version__
from kdcache.views.orders import OrdersAhead
from kdcache.views.policies import describe_policy


@dataclass(frozen=True)
class Setup:
    """A training that is ready to begin.

    Attributes:
        options: what the training was asked for.
        stored: entries of the cache, if targets come from one.
        live: the running teacher, if there is one.
        initial: the weights that the student begins from; None for drawn ones.
        loader: loader of the batches of each step.
        objective_name: name that the objective was chosen by, a key of `OBJECTIVES`.
        label_loss: line with the label loss and its origin; None where the objective has no setting to choose it.
        class_names: names of the student's outputs, where they are known.
        identity: facts that the run's results depend on beside its configuration; compared when it is resumed.
        invocation: places where things were found, for a reader of the run folder.
        lock: lock of the run folder; rank 0 holds it for all of its job, and the others have None.
    """

    options: TrainOptions
    config: RunConfig
    index: Index
    val: Index | None
    opened: OpenViews
    stored: CachedTeachers | None
    live: LiveTeacher | None
    initial: InitialWeights | None
    loader: Loader
    objective_name: str
    label_loss: str | None
    num_classes: int
    class_names: tuple[str, ...] | None
    folder: Path
    identity: dict[str, Any]
    invocation: dict[str, Any]
    lock: FolderLock | None

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimiser steps of one pass."""
        return self.loader.schedule.steps_per_epoch

    @property
    def steps(self) -> int:
        """The number of optimiser steps of the whole training."""
        return self.loader.schedule.steps

    @property
    def policy_text(self) -> str:
        """The views' policy and seed, in words."""
        return describe_policy(self.opened.view_set.policy, self.opened.view_set.seed)

    @property
    def targets(self) -> Capabilities | None:
        """What the teacher's targets can give to an objective; None for no teacher."""
        return capabilities_of(self.stored, self.live)

    @property
    def source(self) -> str:
        """Text that names the teacher or the labels that the student learns from."""
        if self.stored is not None:
            return f"{self.stored.name} from the cache"
        if self.live is not None:
            return f"{self.live.teacher.name} live"
        return "labels and its own past" if self.config.objective.needs.history else "labels alone"


def prepare(options: TrainOptions, processes: Distributed, progress: Progress, held: ExitStack) -> Setup:
    """Open everything that `options` names, and hold the run folder for as long as `held` is open.

    Raises:
        KdcacheError: what does not belong together or is not there, by name.
    """
    config, chosen = configure(options, options.mode, processes.device)
    _check_names(options, config, processes)
    if options.follow and not options.dry_run and options.cache is not None:
        wait_for_first_views(options.cache, options.teacher, options.teachers, progress)
    files = _open_files(options, config, chosen, progress)
    stored, index = files.stored, files.index
    folder = options.out or default_folder(options, config, files.cache.names() if files.cache is not None else [])
    # From here on what is in the run folder is read, and nobody else may change it.
    lock = _hold(options, RunFolder(folder), progress, held) if processes.is_main else None
    before = None if options.fresh else RunFolder(folder).stored_config()
    opened = _open_views(options, config, files, folder, progress)
    view_count = config.views.count
    config = with_view_count(with_views(config, opened), opened, stored, before, follows=options.follow)
    schedule = schedule_of(config, opened)
    log_lost(opened, progress)
    reused_orders = prepare_orders(opened, schedule, 0 if options.fresh else _last_saved_step(folder), held)
    initial = _initial_weights(config)
    weights = None if initial is None else initial.hash
    identity: dict[str, Any] = {"view_set": opened.identity.to_json(), "student_weights": weights}
    if options.mode != "live":
        identity |= {"teacher": teacher_to_json(stored, None), "num_classes": num_classes_of(index, stored, None)}
    if processes.is_main:
        RunFolder(folder).require(config, identity, fresh=options.fresh)
        if stored is not None:
            stored.require_records(config.views.count or 0)
    # Nothing is announced that the run folder refuses, and no live teacher loaded.
    for warning in _warnings(options, files.cache if stored is not None else None):
        progress.warn(warning)
    log_repeated_views(
        schedule.epochs, schedule.views, schedule.repeats, stored if view_count is None else None, progress
    )
    live = _open_live(options, config, files.cache, opened, processes.device, progress)
    num_classes = num_classes_of(index, stored, live)
    _check_classes(config, files, live, num_classes)
    return Setup(
        options=options,
        config=config,
        index=index,
        val=files.val,
        opened=opened,
        stored=stored,
        live=live,
        initial=initial,
        loader=_loader(options, config, opened, stored or live, schedule, reused_orders, processes),
        objective_name=chosen_objective(config.recipe, file=options.config, assignments=options.overrides),
        label_loss=describe_label_loss(options, config),
        num_classes=num_classes,
        class_names=index.class_names if label_space_of(stored, live) == "teacher" else None,
        folder=folder,
        identity=identity | {"teacher": teacher_to_json(stored, live), "num_classes": num_classes},
        invocation=_invocation(options, files.cache, processes.device),
        lock=lock,
    )


@dataclass(frozen=True)
class _Files:
    """What is read: the cache with the entries that serve, if any, and the indices of both data sets."""

    cache: Cache | None
    stored: CachedTeachers | None
    index: Index
    val: Index | None


def _check_names(options: TrainOptions, config: RunConfig, processes: Distributed) -> None:
    """Refuse names that stand for nothing, and a renderer that cannot work here, before anything is opened."""
    require_whole_pairs(config.batch_size, processes.world_size)
    require_whole_parts(config, processes)
    require_loggers(options.log)
    resolve_name(config.student.name)
    if options.online_teacher:
        model_source(options.online_teacher, options.teacher_weights)
    renderer_version(options.renderer, device=processes.device, decode=options.decode)


def _initial_weights(config: RunConfig) -> InitialWeights | None:
    student = config.student
    if student.weights is None:
        return None
    assert student.size is not None  # resolved by `with_views`
    return load_initial_weights(student.name, student.weights, size=student.size)


def _open_files(options: TrainOptions, config: RunConfig, chosen: set[str], progress: Progress) -> _Files:
    """Open the cache first: what is wrong with it is told before an index of millions is built."""
    cache = _cache(options, options.mode, chosen)
    return _Files(
        cache=cache,
        stored=_stored(options, cache, config) if options.mode == "cache" and cache is not None else None,
        index=_index(options.data, options, progress),
        val=_index(options.val, options, progress) if options.val else None,
    )


def _hold(options: TrainOptions, folder: RunFolder, progress: Progress, held: ExitStack) -> FolderLock | None:
    """Hold the run folder; a dry run makes no lock, and refuses a folder that another process is known to hold."""
    if options.dry_run:
        folder.require_not_held(progress.say)
        return None
    return held.enter_context(folder.hold(progress.say))


def _index(data: str, options: TrainOptions, progress: Progress) -> Index:
    if options.dry_run and find_index(data) is None:
        raise UsageError(
            f"{data} has no index that fits its shards, and a dry run writes none: run `kdcache index {data}` first."
        )
    return open_index(data, progress=progress)


def _open_views(options: TrainOptions, config: RunConfig, files: _Files, folder: Path, progress: Progress) -> OpenViews:
    """Return the views of the cache, or the training's own where there is none, and what is known of lost samples."""
    if files.cache is not None:
        return with_lost_of(stored_views(files.cache, files.index), files.cache)
    windows = stored_windows(folder, options.fresh)
    return new_views(files.index, policy_of(config), config.views.seed, progress, windows)


def _last_saved_step(folder: Path) -> int:
    steps = Checkpoints(folder / "checkpoints").steps()
    return steps[-1] if steps else 0


def _open_live(
    options: TrainOptions,
    config: RunConfig,
    cache: Cache | None,
    opened: OpenViews,
    device: torch.device,
    progress: Progress,
) -> LiveTeacher | None:
    if options.mode != "live":
        return None
    needs = config.objective.needs
    wanted = WantedTeacher(
        options.online_teacher or "",
        options.teacher_weights,
        options.teacher,
        features=needs.teacher_features,
        layers=needs.teacher_layers if needs.maps else None,
        compile=config.compile_teacher,
    )
    return open_live_teacher(wanted, cache, opened, device, progress)


def _check_classes(config: RunConfig, files: _Files, live: LiveTeacher | None, num_classes: int) -> None:
    """Refuse an objective that these targets and labels cannot serve, and a validation set of other classes."""
    stored, index = files.stored, files.index
    require(
        config.objective.needs,
        targets=capabilities_of(stored, live),
        unlabelled=describe_unlabelled(index, stored, live),
        num_classes=num_classes,
    )
    if files.val is None:
        return
    if label_space_of(stored, live) == "none":
        raise UsageError(
            "--val asks for accuracy, and the teacher's classes are not the labels' (label space none): leave "
            "--val out, or distil from a teacher of these labels."
        )
    check_labels(files.val, num_classes, index.class_names)


def _invocation(options: TrainOptions, cache: Cache | None, device: torch.device) -> dict[str, Any]:
    """Return what a run records of its command: places and machine. A resumed run may differ in all of it."""
    return {
        "data": options.data,
        "val": options.val,
        "cache": options.cache if cache is not None else None,
        "source": options.mode,
        "teacher_weights": str(options.teacher_weights) if options.teacher_weights else None,
        "device": str(device),
        "renderer": options.renderer,
        "decode": options.decode,
        "imports": list(options.imports),
        "kdcache": __version__,
    }


def _cache(options: TrainOptions, mode: Mode, chosen: set[str]) -> Cache | None:
    """Open the cache whose targets or views are wanted; None for views of the training's own."""
    if mode == "supervised" or options.cache is None or not Cache.exists(options.cache):
        if mode == "cache":
            raise UsageError(
                f"There is no cache at {options.cache}: make one with `kdcache dump-logits --teacher NAME`, give "
                "another --cache, or train with --supervised."
            )
        return None
    cache = Cache.open(options.cache)
    names = sorted(name for name in chosen if name.startswith("views.") and name != "views.count")
    if names:
        raise ConfigError(
            f"{names[0]} is set, and the views are those of the cache {cache.location}: leave it out, or give a "
            "--cache that was dumped with it."
        )
    return cache


def _warnings(options: TrainOptions, cache: Cache | None) -> list[str]:
    """Return warnings about the teachers that were asked for, and about the cache that their targets are read from."""
    found = [describe_scaled_weights(options.teachers) if options.teachers else None]
    found += [cache.format_warning if cache is not None else None]
    return [warning for warning in found if warning]


def _stored(options: TrainOptions, cache: Cache, config: RunConfig) -> CachedTeachers:
    """Return the entries that were asked for, whose kind of targets serves the objective."""
    stored = open_cached_teachers(cache, options.teacher, options.teachers)
    needs = config.objective.needs
    if needs.teacher_features:
        stored.require_one()
    require(needs, targets=stored.capabilities, unlabelled="", num_classes=stored.num_classes)
    return stored


def _loader(
    options: TrainOptions,
    config: RunConfig,
    opened: OpenViews,
    source: CachedTeachers | LiveTeacher | None,
    schedule: Schedule,
    reused_orders: OrdersAhead,
    processes: Distributed,
) -> Loader:
    assert config.student.size is not None  # resolved by `with_views`
    return Loader(
        view_set=opened.view_set,
        schedule=schedule,
        source=source,
        image_size=config.student.size,
        renderer=options.renderer,
        decode=options.decode,
        device=processes.device,
        ranks=processes.ranks,
        reused_orders=reused_orders,
        follows=options.follow,
    )
