"""`kdcache train`: train a student on views, from a teacher's targets and from labels."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.store import Cache
from kdcache.evaluation.scoring import Computing, Evaluation, try_scoring
from kdcache.loader.opening import entry_name
from kdcache.loader.provenance import imports_in, warn_of_other_renderer
from kdcache.models.network import Network
from kdcache.models.run_weights import imports_of_run
from kdcache.models.students import StudentOptions, create_student
from kdcache.objectives.base import LossSpec
from kdcache.runtime.device import gpu_arithmetic, resolve_device, share_of_cores, use_all_cores
from kdcache.runtime.distributed import Distributed, join_processes
from kdcache.runtime.formatting import format_count
from kdcache.runtime.imports import import_modules, naming_imports
from kdcache.runtime.progress import Progress, logged, silent
from kdcache.runtime.signals import stop_requests
from kdcache.training.configure import configure
from kdcache.training.dry_run import TrainPlan
from kdcache.training.logs import METRICS
from kdcache.training.metrics import read_metrics
from kdcache.training.naming import default_folder
from kdcache.training.objective_module import data_spec
from kdcache.training.options import TrainOptions
from kdcache.training.prediction_history import PredictionHistory
from kdcache.training.run_folder import RunFolder
from kdcache.training.setup import Setup, prepare
from kdcache.training.shared_folder import require_shared
from kdcache.training.summary import log_summary
from kdcache.training.train_state import TrainState
from kdcache.training.trainer import Trainer


@dataclass(frozen=True)
class TrainReport:
    """The result of a training.

    Attributes:
        folder: run folder.
        epochs, steps: number of epochs and optimiser steps done.
        loss: mean loss of the last epoch.
        images_per_s: speed of the epochs trained by this call, evaluation left out; None if there were none left.
        evaluation: score of the exported weights on the labelled images of `--val`; None without.
        losses: loss of each step taken by this call, if asked for.
        plan: what a dry run found, which took no step; None of a training.
    """

    folder: Path
    epochs: int
    steps: int
    loss: float | None
    images_per_s: float | None
    evaluation: Evaluation | None
    losses: tuple[float, ...] = ()
    plan: TrainPlan | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, of a dry run the plan alone."""
        if self.plan is not None:
            return {"dry_run": True, **self.plan.to_json()}
        return {
            "dry_run": False,
            "folder": str(self.folder),
            "export": str(self.folder / "export"),
            "epochs": self.epochs,
            "steps": self.steps,
            "loss": self.loss,
            "images_per_s": self.images_per_s,
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        if self.plan is not None:
            return self.plan.lines()
        done = [f"{self.folder}: {format_count(self.epochs, 'epoch')}, {format_count(self.steps, 'step')} done"]
        if self.loss is not None:
            done.append(f"mean loss of the last epoch {self.loss:.4f}")
        if self.images_per_s is not None:
            done.append(f"{self.images_per_s:,.0f} images/s while training")
        out = ["; ".join(done) + "."]
        if self.evaluation is not None:
            out += self.evaluation.lines()
        out.append(f"The student for timm: {self.folder / 'export'}")
        return out


def train(
    options: TrainOptions,
    progress: Progress = logged,
    *,
    keep_losses: bool = False,
    after_epoch: Callable[[Path], None] | None = None,
) -> TrainReport:
    """Train one student to the end, or go on with the run that is in its folder.

    Asked to stop by a signal (`kdcache.runtime.signals`) it saves its state after the step that it is at; at the end of
    an epoch it has done so before it evaluates. Killed otherwise it goes on from its last checkpoint. On a CPU the
    resumed run takes the very steps that an uninterrupted one takes. A dry run refuses what a training would refuse
    before its first step, and writes nothing.

    Args:
        keep_losses: whether to return the loss of each step, at the cost of reading it from the device.
        after_epoch: function that the main process calls with the run folder when an epoch's row is in metrics.csv.

    Raises:
        Interrupted: a signal asked it to stop, and its state is saved.
        KdcacheError: what does not belong together is refused before the first step.
    """
    import_modules(options.imports)
    device = resolve_device(options.device)
    with naming_imports(lambda: _made_with(options, device)), join_processes(device) as processes, ExitStack() as held:
        if processes.is_single:
            use_all_cores()
        else:
            torch.set_num_threads(share_of_cores())
        return _train(options, processes, progress if processes.is_main else silent, keep_losses, after_epoch, held)


def _made_with(options: TrainOptions, device: torch.device) -> dict[str, tuple[str, ...]]:
    """Return the imports of the run that would go on, and of all that the live teacher is made of."""
    folder = options.out
    if folder is None:
        config, _ = configure(options, options.mode, device)
        there = options.cache is not None and Cache.exists(options.cache)
        folder = default_folder(options, config, Cache.open(str(options.cache)).names() if there else [])
    made = {f"The run {folder}": imports_of_run(folder)}
    if options.online_teacher is not None:
        teacher = options.online_teacher
        runs = (Path(teacher), *([] if options.teacher_weights is None else [options.teacher_weights]))
        made |= {f"The run {run}": imports_of_run(run) for run in runs}
        if options.cache is not None:
            made |= imports_in(options.cache, options.teacher or entry_name(teacher))
    return made


def _train(
    options: TrainOptions,
    processes: Distributed,
    progress: Progress,
    keep_losses: bool,
    after_epoch: Callable[[Path], None] | None,
    held: ExitStack,
) -> TrainReport:
    setup = prepare(options, processes, progress, held)
    held.enter_context(gpu_arithmetic(processes.device, setup.config.tf32, setup.config.cudnn_benchmark))
    network = _student(setup)
    if setup.config.sync_bn:
        network = replace(network, module=processes.sync_batch_norm(network.module))
    state = TrainState(
        network.module,
        setup.config,
        steps_per_epoch=setup.steps_per_epoch,
        spec=_loss_spec(setup),
        processes=processes,
        history=_history(setup, processes, progress) if setup.config.objective.needs.history else None,
        scored=setup.val is not None,
    )
    if setup.val is not None:
        try_scoring(network, setup.val, Computing(processes.device, state.precision, processes=processes))
    if options.dry_run:
        log_summary(setup, processes, progress)
        plan = TrainPlan.of(setup, options.fresh)
        return TrainReport(setup.folder, 0, 0, loss=None, images_per_s=None, evaluation=None, plan=plan)
    # Only now, when nothing is left to refuse, does anything change on disk.
    resume = _enter_folder(options, setup, processes)
    log_summary(setup, processes, progress)
    if setup.stored is not None:
        loader = setup.loader
        warn_of_other_renderer(
            setup.stored.entries, loader.renderer, loader.decode, loader.device, loader.schedule.views, progress
        )
    losses: list[float] | None = [] if keep_losses else None
    told = None if after_epoch is None else partial(after_epoch, setup.folder)
    with stop_requests() as requests:
        trainer = Trainer(
            setup, network, state, processes=processes, requests=requests, progress=progress, after_epoch=told
        )
        trainer.fit(resume=resume, losses=losses)
    return TrainReport(
        folder=setup.folder,
        epochs=trainer.epoch,
        steps=trainer.step,
        loss=_last_loss(setup.folder / METRICS),
        images_per_s=trainer.clock.images_per_s,
        evaluation=trainer.evaluation,
        losses=tuple(losses or ()),
    )


def _enter_folder(options: TrainOptions, setup: Setup, processes: Distributed) -> bool:
    """Make the run folder ready, or find it so; return whether there is a run in it to go on with."""
    windows = setup.opened.view_set.windows
    resume = processes.is_main and RunFolder(setup.folder).enter(
        setup.config, setup.identity, setup.invocation, windows, fresh=options.fresh
    )
    resume = processes.all_reduce_any(resume)
    if resume or setup.config.objective.needs.history:
        require_shared(setup.folder, processes)
    return resume


def _student(setup: Setup) -> Network:
    student = setup.config.student
    assert student.size is not None  # resolved by the setup
    return create_student(
        student.name,
        num_classes=setup.num_classes,
        size=student.size,
        seed=setup.config.seed,
        options=StudentOptions(
            drop_path=student.drop_path,
            drop=student.drop,
            crop_pct=student.crop_pct,
            interpolation=student.interpolation,
            kwargs=student.kwargs,
            in_chans=student.in_chans,
        ),
        initial=setup.initial,
    )


def _loss_spec(setup: Setup) -> LossSpec:
    """Return the `LossSpec` of a training, without the part that describes the student.

    Raises:
        ModelError: the objective needs the teacher's features or feature maps, and it has none.
        ConfigError: it asks for layers that the teacher does not have.
    """
    needs, live, stored = setup.config.objective.needs, setup.live, setup.stored
    features = None
    if needs.teacher_features:
        features = live.teacher.num_features if live else stored.num_features if stored else None
    return data_spec(
        setup.index,
        setup.num_classes,
        teacher_features=features,
        teacher_maps=live.teacher.map_shapes(needs.teacher_layers) if needs.maps and live else (),
    )


def _history(setup: Setup, processes: Distributed, progress: Progress) -> PredictionHistory:
    return PredictionHistory(
        setup.folder / "past",
        samples=len(setup.index),
        num_classes=setup.num_classes,
        epochs_per_round=setup.opened.view_set.policy.repeats,
        is_main=processes.is_main,
        warn=progress.warn,
        barrier=processes.barrier,
    )


def _last_loss(metrics: Path) -> float | None:
    rows = read_metrics(metrics)
    return rows[-1]["loss"] if rows else None
