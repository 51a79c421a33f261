"""`kdcache train`: a student learns from views, from what a teacher said of them, and from labels."""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcache.data.reader import SampleReader
from kdcache.device import resolve_device, share_of_cores, use_all_cores
from kdcache.errors import RunError
from kdcache.jobs.common.provenance import warn_of_other_provenance
from kdcache.jobs.common.scoring import Evaluation, score
from kdcache.jobs.common.wording import counted
from kdcache.jobs.training.asked import TrainRequest
from kdcache.jobs.training.batches import Batch, Steps, cached_batches, live_batches, supervised_batches
from kdcache.jobs.training.epoch import Clock, EpochLosses
from kdcache.jobs.training.introduction import introduce
from kdcache.jobs.training.setup import Setup, prepare
from kdcache.jobs.training.shape import shape_of
from kdcache.jobs.training.stopping import asked_to_stop
from kdcache.models.network import Network
from kdcache.models.students import create_student
from kdcache.progress import Progress, Task, silent
from kdcache.render.opening import open_renderer, renderer_version
from kdcache.run.checkpoint import Checkpoints
from kdcache.run.export import export_model
from kdcache.run.folder import RunFolder
from kdcache.run.metrics import MetricsTable, TensorBoard, read_metrics
from kdcache.run.past import Past
from kdcache.run.shared import require_shared
from kdcache.run.team import Team, join
from kdcache.run.trainer import Trainer
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

    Stopped by SIGINT or SIGTERM it saves its state between two steps; killed otherwise it goes on from its last
    checkpoint. On a CPU the resumed run takes the very steps that an uninterrupted one takes.

    Args:
        keep_losses: return the loss of each step, at the cost of reading it.

    Raises:
        KdcacheError: what does not belong together is refused before the first step.
    """
    device = resolve_device(request.device)
    with join(device) as team:
        if team.alone:
            use_all_cores()
        else:
            torch.set_num_threads(share_of_cores())
        return _train(request, team, progress if team.first else silent, keep_losses)


def _train(request: TrainRequest, team: Team, progress: Progress, keep_losses: bool) -> TrainReport:
    setup = prepare(request, team, progress)
    config = setup.config
    network = _student(setup)
    trainer = Trainer(
        network.module,
        config,
        steps_per_epoch=setup.steps_per_epoch,
        shape=shape_of(setup),
        team=team,
        precision=config.precision,
        past=_past(setup, team, progress) if config.objective.needs.past else None,
    )
    # Only now, when nothing is left to refuse, does anything change on disk.
    folder = RunFolder(setup.folder)
    resumed = team.first and folder.enter(
        config, setup.belongs, setup.given, setup.opened.view_set.windows, fresh=request.fresh
    )
    resumed = team.any(resumed)
    if resumed or config.objective.needs.past:
        require_shared(folder.path, team)
    introduce(setup, team, progress)
    _warn_of_other_renderer(setup, request, team.device, progress)
    checkpoints = Checkpoints(
        folder.path / "checkpoints",
        keep=config.keep_checkpoints,
        keep_every=config.keep_epochs and config.keep_epochs * setup.steps_per_epoch,
    )
    epoch = EpochLosses(config.objective.parts)
    checkpoint = checkpoints.latest(progress.warn) if resumed else None
    if checkpoint is not None:
        trainer.load(checkpoint)
        epoch.load(checkpoint.trainer["epoch"])
        progress.say(f"Going on from step {trainer.step:,} of {setup.steps:,} in {folder.path}.")
    losses: list[float] = []
    evaluation: Evaluation | None = None

    with ExitStack() as stack:
        logs = _logs(setup, folder.path, trainer.step, progress, stack) if team.first else ()
        task = stack.enter_context(
            progress.task(
                f"Train {config.student.name} from {setup.source}",
                total=setup.steps * config.batch_size,
                done=trainer.step * config.batch_size,
            )
        )
        stop = stack.enter_context(asked_to_stop())
        clock = Clock()
        for batch in stack.enter_context(closing(_batches(setup, request, team, trainer.step))):
            rows = batch.views.rows
            step_losses = trainer.take_step(
                network.normalise(batch.views.pixels),
                batch.targets,
                torch.from_numpy(rows.labels),
                torch.from_numpy(rows.weight),
                torch.from_numpy(rows.samples),
            )
            epoch.add(step_losses)
            clock.count(config.batch_size)
            if keep_losses:
                losses.append(step_losses.total.item())
            _advance(task, config.batch_size, epoch, trainer.step, setup.steps_per_epoch, team)
            if trainer.step % setup.steps_per_epoch == 0:
                clock.pause()
                evaluation = _end_epoch(setup, network, trainer, epoch, clock, checkpoints, logs, team, progress)
                clock.go_on()
            if _shall_stop(stop, trainer.step, team) and trainer.step < setup.steps:
                _save(checkpoints, network, trainer, epoch, team, score=None)
                raise KeyboardInterrupt
    if team.first:
        _export(setup, network, trainer, folder.path)
    evaluation = evaluation or _evaluate(setup, network, trainer, team, progress)
    team.wait()
    return TrainReport(
        folder=folder.path,
        epochs=trainer.step // setup.steps_per_epoch,
        steps=trainer.step,
        loss=_last_loss(folder.path / _METRICS),
        images_per_s=clock.images_per_s,
        evaluation=evaluation,
        losses=tuple(losses),
    )


_METRICS = "metrics.csv"
_COLUMNS = ("epoch", "lr", "images_per_s", "loss")
_SCORES = ("val_top1", "val_top5", "val_loss")


def _logs(
    setup: Setup, folder: Path, step: int, progress: Progress, stack: ExitStack
) -> tuple[MetricsTable | TensorBoard, ...]:
    """Where the metrics go; `stack` closes what has to be closed."""
    table = MetricsTable(folder / _METRICS, (*_COLUMNS, *setup.config.objective.parts, *_SCORES), resume_step=step)
    board = TensorBoard(folder / "events", warn=progress.warn, resume_step=step)
    return table, stack.enter_context(closing(board))


def _shall_stop(asked: Callable[[], bool], step: int, team: Team) -> bool:
    """Whether to stop after this step; several processes have to agree, and do so now and then only."""
    if team.alone:
        return asked()
    return step % _STEPS_BETWEEN_READINGS == 0 and team.any(asked())


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


def _past(setup: Setup, team: Team, progress: Progress) -> Past:
    return Past(
        setup.folder / "past",
        samples=len(setup.index),
        num_classes=setup.num_classes,
        epochs_per_round=setup.opened.view_set.policy.repeats,
        first=team.first,
        warn=progress.warn,
        meet=team.wait,
    )


def _batches(setup: Setup, request: TrainRequest, team: Team, first_step: int) -> Generator[Batch, None, None]:
    """The batches from `first_step` on, from whatever source the setup has."""
    config, view_set = setup.config, setup.opened.view_set
    size = config.student.size
    assert size is not None
    steps = Steps(setup.schedule, first_step, team.ranks)
    largest = max(config.batch_size, setup.live.teacher.batch_size if setup.live is not None else 0)

    with closing(SampleReader(setup.index)) as reader:

        def open_stream(of: Iterable[Span | Picks], pixels: int) -> Generator[Views, None, None]:
            with open_renderer(
                request.renderer,
                size=pixels,
                max_batch=largest,
                device=team.device,
                decode=request.decode,
            ) as renderer:
                yield from stream_views(view_set, reader, renderer, of)

        if setup.stored is not None:
            batches = cached_batches(steps, open_stream, size, setup.stored)
        elif setup.live is not None:
            batches = live_batches(steps, open_stream, size, setup.live, view_set)
        else:
            batches = supervised_batches(steps, open_stream, size)
        with closing(batches):
            yield from batches


def _advance(task: Task, images: int, epoch: EpochLosses, step: int, steps_per_epoch: int, team: Team) -> None:
    """Count a step, and show the mean loss of its epoch, of all processes, now and then and at the epoch's end."""
    if step % _STEPS_BETWEEN_READINGS and step % steps_per_epoch:
        task.advance(images)
    else:
        task.advance(images, loss_this_epoch=epoch.means(team)["loss"])


def _end_epoch(
    setup: Setup,
    network: Network,
    trainer: Trainer,
    epoch: EpochLosses,
    clock: Clock,
    checkpoints: Checkpoints,
    logs: Sequence[MetricsTable | TensorBoard],
    team: Team,
    progress: Progress,
) -> Evaluation | None:
    """Report, and keep what has been learnt; returns the score, if it was time for one."""
    config = setup.config
    number = trainer.step // setup.steps_per_epoch
    means = epoch.means(team)
    if not math.isfinite(means["loss"]):
        raise RunError(
            f"The loss of epoch {number} is {means['loss']}: training has diverged. Lower optimizer.lr, or set "
            f"clip_grad, and start anew with --fresh; earlier checkpoints stay in {checkpoints.folder}."
        )
    due = config.eval_epochs and number % config.eval_epochs == 0 and trainer.step < setup.steps
    evaluation = _evaluate(setup, network, trainer, team, progress) if due or trainer.step == setup.steps else None
    values: dict[str, float | int | None] = {
        "epoch": number,
        "lr": trainer.last_lr,
        "images_per_s": clock.lap(),
        **means,
    }
    if evaluation is not None:
        values |= {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "val_loss": evaluation.loss}
        progress.say(
            f"Epoch {number}: top-1 {evaluation.top1:.2%}, top-5 {evaluation.top5:.2%}, loss {evaluation.loss:.4f} on "
            f"{evaluation.samples:,} images of --val."
        )
    for log in logs:
        log.append(trainer.step, values)
    epoch.clear()
    stays = config.keep_epochs is not None and number % config.keep_epochs == 0
    if stays or number % config.checkpoint_epochs == 0 or trainer.step == setup.steps:
        _save(checkpoints, network, trainer, epoch, team, score=evaluation.top1 if evaluation is not None else None)
    return evaluation


def _save(
    checkpoints: Checkpoints,
    network: Network,
    trainer: Trainer,
    epoch: EpochLosses,
    team: Team,
    score: float | None,
) -> None:
    state = {**trainer.state(), "epoch": epoch.state(team)}
    if team.first:
        checkpoints.save(
            trainer.step,
            model=network.module.state_dict(),
            ema=trainer.ema_state(),
            trainer=state,
            metadata=network.card.to_metadata(),
            score=score,
        )
    team.wait()


def _evaluate(setup: Setup, network: Network, trainer: Trainer, team: Team, progress: Progress) -> Evaluation | None:
    if setup.val is None:
        return None
    module = trainer.averaged_module()
    team.share_statistics(module)
    return score(
        Network(module, network.card),
        setup.val,
        name=setup.config.student.name,
        device=team.device,
        precision=trainer.precision,
        team=team,
        progress=progress,
    )


def _export(setup: Setup, network: Network, trainer: Trainer, folder: Path) -> None:
    export_model(
        folder / "export",
        network,
        tensors=trainer.ema_state(),
        dtype=getattr(torch, setup.config.export_dtype),
        class_names=setup.class_names,
    )


def _last_loss(metrics: Path) -> float | None:
    rows = read_metrics(metrics)
    return rows[-1]["loss"] if rows else None
