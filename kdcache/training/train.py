"""`kdcache train`: a student learns from views, from what a teacher said of them, and from labels."""

from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcache.data.reader import SampleReader
from kdcache.evaluation.scoring import Evaluation, try_scoring
from kdcache.loader.batches import Batch, Steps, cached_batches, live_batches, supervised_batches
from kdcache.loader.provenance import warn_of_other_provenance
from kdcache.models.network import Network
from kdcache.models.students import create_student
from kdcache.render.opening import open_renderer, renderer_version
from kdcache.runtime.device import resolve_device, share_of_cores, use_all_cores
from kdcache.runtime.distributed import Distributed, join_processes
from kdcache.runtime.formatting import counted
from kdcache.runtime.progress import Progress, Task, silent
from kdcache.runtime.signals import stop_requests
from kdcache.training.epoch import EpochLosses
from kdcache.training.loss_spec import shape_of
from kdcache.training.metrics import read_metrics
from kdcache.training.options import TrainRequest
from kdcache.training.prediction_history import Past
from kdcache.training.recording import METRICS, Recording
from kdcache.training.run_folder import RunFolder
from kdcache.training.setup import Setup, prepare
from kdcache.training.shared_folder import require_shared
from kdcache.training.stopping import AgreedStop
from kdcache.training.summary import introduce
from kdcache.training.trainer import Trainer
from kdcache.views.stream import Views, stream_views
from kdcache.views.viewset import Picks, Span

_STEPS_BETWEEN_READINGS = 20
"""Reading a loss waits for the device, so it is done now and then only."""


@dataclass(frozen=True)
class TrainReport:
    """What a training came to.

    Attributes:
        folder: of the run.
        epochs, steps: done.
        loss: mean of the last epoch.
        images_per_s: of the epochs trained by this call, evaluation left out; None if there were none left.
        evaluation: of the exported weights on the labelled images of `--val`; None without.
        losses: of each step taken by this call, if they were asked for.
    """

    folder: Path
    epochs: int
    steps: int
    loss: float | None
    images_per_s: float | None
    evaluation: Evaluation | None
    losses: tuple[float, ...] = ()

    def lines(self) -> list[str]:
        """The report as plain lines."""
        done = [f"{self.folder}: {counted(self.epochs, 'epoch')}, {counted(self.steps, 'step')} done"]
        if self.loss is not None:
            done.append(f"mean loss of the last epoch {self.loss:.4f}")
        if self.images_per_s is not None:
            done.append(f"{self.images_per_s:,.0f} images/s, evaluation left out")
        out = ["; ".join(done) + "."]
        if self.evaluation is not None:
            out += self.evaluation.lines()
        out.append(f"The student for timm: {self.folder / 'export'}")
        return out


def train(request: TrainRequest, progress: Progress = silent, *, keep_losses: bool = False) -> TrainReport:
    """Train one student to the end, or go on with the run that is in its folder.

    Asked to stop by a signal (`kdcache.runtime.signals`) it saves its state after the step that it is at; at the end of
    an epoch it has done so before it evaluates. Killed otherwise it goes on from its last checkpoint. On a CPU the
    resumed run takes the very steps that an uninterrupted one takes.

    Args:
        keep_losses: return the loss of each step, at the cost of reading it.

    Raises:
        Interrupted: a signal asked it to stop, and its state is saved.
        KdcacheError: what does not belong together is refused before the first step.
    """
    device = resolve_device(request.device)
    with join_processes(device) as processes, ExitStack() as held:
        if processes.is_single:
            use_all_cores()
        else:
            torch.set_num_threads(share_of_cores())
        return _train(request, processes, progress if processes.is_main else silent, keep_losses, held)


def _train(
    request: TrainRequest, processes: Distributed, progress: Progress, keep_losses: bool, held: ExitStack
) -> TrainReport:
    setup = prepare(request, processes, progress, held)
    config = setup.config
    network = _student(setup)
    trainer = Trainer(
        network.module,
        config,
        steps_per_epoch=setup.steps_per_epoch,
        shape=shape_of(setup),
        processes=processes,
        precision=config.precision,
        past=_past(setup, processes, progress) if config.objective.needs.past else None,
    )
    if setup.val is not None:
        try_scoring(network, setup.val, processes.ranks, device=processes.device, precision=trainer.precision)
    # Only now, when nothing is left to refuse, does anything change on disk.
    folder = RunFolder(setup.folder)
    resumed = processes.is_main and folder.enter(
        config, setup.belongs, setup.given, setup.opened.view_set.windows, fresh=request.fresh
    )
    resumed = processes.all_reduce_any(resumed)
    if resumed or config.objective.needs.past:
        require_shared(folder.path, processes)
    introduce(setup, processes, progress)
    _warn_of_other_renderer(setup, request, processes.device, progress)
    losses: list[float] = []
    with stop_requests() as requests:
        stop = AgreedStop(requests, processes)
        recording = Recording(setup, network, trainer, folder.path, processes, stop, progress)
        checkpoint = recording.restore() if resumed else None
        with recording.logs(checkpoint) as evaluation:
            evaluation = _take_steps(setup, request, recording, losses if keep_losses else None) or evaluation
            evaluation = evaluation or recording.evaluate()
        recording.export()
    return TrainReport(
        folder=folder.path,
        epochs=trainer.step // setup.steps_per_epoch,
        steps=trainer.step,
        loss=_last_loss(folder.path / METRICS),
        images_per_s=recording.clock.images_per_s,
        evaluation=evaluation,
        losses=tuple(losses),
    )


def _take_steps(
    setup: Setup, request: TrainRequest, recording: Recording, losses: list[float] | None
) -> Evaluation | None:
    """Take the steps that are left; returns the evaluation of the last one of these epochs, if there was one.

    Args:
        losses: takes the loss of each step, if they are wanted.

    Raises:
        Interrupted: a signal came, and the state is saved.
    """
    size, trainer, processes, stop = setup.config.batch_size, recording.trainer, recording.processes, recording.stop
    evaluation: Evaluation | None = None
    with (
        recording.progress.task(
            f"Train {setup.config.student.name} from {setup.source}", total=setup.steps * size, done=trainer.step * size
        ) as task,
        closing(_batches(setup, request, processes, trainer.step)) as batches,
    ):
        recording.clock.go_on()
        for batch in batches:
            rows = batch.views.rows
            step_losses = trainer.take_step(
                recording.network.normalise(batch.views.pixels),
                batch.targets,
                torch.from_numpy(rows.labels),
                torch.from_numpy(rows.weight),
                torch.from_numpy(rows.samples),
            )
            if setup.lock is not None:
                setup.lock.require_held()
            recording.losses.add(step_losses)
            recording.clock.count(size)
            if losses is not None:
                losses.append(step_losses.total.item())
            _advance(task, size, recording.losses, trainer.step, setup.steps_per_epoch, processes)
            if trainer.step % setup.steps_per_epoch == 0:
                evaluation = recording.end_epoch()
            if stop.after_step() and trainer.step < setup.steps:
                recording.save()
                recording.progress.say(f"Saved after step {trainer.step:,} of {setup.steps:,} in {recording.folder}.")
                stop.requests.raise_if_requested()
    return evaluation


def _warn_of_other_renderer(setup: Setup, request: TrainRequest, device: torch.device, progress: Progress) -> None:
    if setup.stored is None:
        return
    here = {"renderer": renderer_version(request.renderer, device=device, decode=request.decode)}
    for entry in setup.stored.entries:
        warn_of_other_provenance(entry, here, setup.schedule.views, progress)


def _student(setup: Setup) -> Network:
    student = setup.config.student
    assert student.size is not None  # resolved by the setup
    return create_student(
        student.name,
        num_classes=setup.num_classes,
        size=student.size,
        seed=setup.config.seed,
        drop_path=student.drop_path,
        crop_pct=student.crop_pct,
        interpolation=student.interpolation,
        kwargs=student.kwargs,
    )


def _past(setup: Setup, processes: Distributed, progress: Progress) -> Past:
    return Past(
        setup.folder / "past",
        samples=len(setup.index),
        num_classes=setup.num_classes,
        epochs_per_round=setup.opened.view_set.policy.repeats,
        first=processes.is_main,
        warn=progress.warn,
        meet=processes.barrier,
    )


def _batches(
    setup: Setup, request: TrainRequest, processes: Distributed, first_step: int
) -> Generator[Batch, None, None]:
    """The batches from `first_step` on, from whatever source the setup has."""
    config, view_set = setup.config, setup.opened.view_set
    size = config.student.size
    assert size is not None
    steps = Steps(setup.schedule, first_step, processes.ranks)
    largest = max(config.batch_size, setup.live.teacher.batch_size if setup.live is not None else 0)

    with closing(SampleReader(setup.index)) as reader, closing(view_set), closing(steps):

        def open_stream(of: Iterable[Span | Picks], pixels: int) -> Generator[Views, None, None]:
            with open_renderer(
                request.renderer,
                size=pixels,
                max_batch=largest,
                device=processes.device,
                decode=request.decode,
            ) as renderer:
                yield from stream_views(view_set, reader, renderer, of)

        if setup.stored is not None:
            batches = cached_batches(steps, open_stream, size, setup.stored, view_set)
        elif setup.live is not None:
            batches = live_batches(steps, open_stream, size, setup.live, view_set)
        else:
            batches = supervised_batches(steps, open_stream, size, view_set)
        with closing(batches):
            yield from batches


def _advance(
    task: Task, images: int, epoch: EpochLosses, step: int, steps_per_epoch: int, processes: Distributed
) -> None:
    """Count a step, and show the mean loss of its epoch, of all processes, now and then and at the epoch's end."""
    if step % _STEPS_BETWEEN_READINGS and step % steps_per_epoch:
        task.advance(images)
    else:
        task.advance(images, loss_this_epoch=epoch.means(processes)["loss"])


def _last_loss(metrics: Path) -> float | None:
    rows = read_metrics(metrics)
    return rows[-1]["loss"] if rows else None
