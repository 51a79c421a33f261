"""The loop of a training: steps, epochs, evaluation, checkpoints and logs.

At the end of an epoch the state is saved first, with the numbers of the epoch. Evaluation follows, then the row of the
epoch in metrics.csv and the other logs, then the score that makes a checkpoint the best. Killed between any two of
these, the run that goes on finds in its checkpoint what is to be done, and in metrics.csv whether it was.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdcache.errors import KdcacheError, RunError
from kdcache.evaluation.scoring import Computing, Evaluation, score
from kdcache.loader.batches import Batch
from kdcache.loader.following import describe_wait, missing_of_views, pause
from kdcache.models.network import Network
from kdcache.objectives.base import Losses
from kdcache.runtime.device import peak_memory
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.energy import open_energy_meter
from kdcache.runtime.progress import Progress, Task
from kdcache.runtime.signals import StopRequests
from kdcache.training.checkpoint import Checkpoint, Checkpoints
from kdcache.training.epoch import Clock, EpochLosses, Reading, loss_values
from kdcache.training.export import export_model
from kdcache.training.logs import METRICS, RunLogs, open_logs
from kdcache.training.metrics import read_metrics
from kdcache.training.setup import Setup
from kdcache.training.stopping import AgreedStop
from kdcache.training.train_state import TrainState

_SCORES = ("val_top1", "val_top5", "val_loss")
#: The scores of the weights themselves, where those of their moving average are exported, and have the names above.
_RAW_SCORES = ("val_top1_raw", "val_top5_raw", "val_loss_raw")
#: Reading a loss waits for the device, so it is done once in so many steps, and at the end of an epoch.
_STEPS_BETWEEN_READINGS = 20


class Trainer:
    """Trains one student in one run folder, and owns the loop over its steps and epochs.

    Under torchrun every process has one and calls each method; the main process writes.

    Attributes:
        evaluation: result of the last evaluation, None before the first.
        clock: clock of the steps, evaluation and saving left out.
    """

    def __init__(
        self,
        setup: Setup,
        network: Network,
        state: TrainState,
        *,
        processes: Distributed,
        requests: StopRequests,
        progress: Progress,
        after_epoch: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            setup: prepared training.
            network: the student, whose module `state` trains.
            requests: the signals that ask this process to stop.
            after_epoch: function that the main process calls when the row of an epoch is in metrics.csv.
        """
        self.setup, self.network, self.state = setup, network, state
        self._loader = replace(setup.loader, normalise=network.normalise)
        self.processes, self.progress = processes, progress
        self._after_epoch = after_epoch if processes.is_main else None
        self.stop = AgreedStop(requests, processes)
        self.evaluation: Evaluation | None = None
        self._raw: Evaluation | None = None
        self.clock = Clock(open_energy_meter(processes.device, counts_processors=processes.ranks.local_rank == 0))
        config = setup.config
        self._losses, self._recent_losses = (EpochLosses(config.objective.parts) for _ in range(2))
        self._epoch_start = self._row_start = Reading()
        self._checkpoints = Checkpoints(
            setup.folder / "checkpoints",
            keep=config.keep_checkpoints,
            keep_every=config.keep_epochs and config.keep_epochs * setup.steps_per_epoch,
        )
        self._saved_step = -1
        self._logs: RunLogs | None = None

    @property
    def step(self) -> int:
        """The number of optimiser steps done."""
        return self.state.step

    @property
    def epoch(self) -> int:
        """The number of epochs done."""
        return self.step // self.setup.steps_per_epoch

    @property
    def is_done(self) -> bool:
        """Whether the last step is done."""
        return self.step == self.setup.steps

    def fit(self, *, resume: bool, losses: list[float] | None = None) -> None:
        """Train from the latest checkpoint, or from the start, to the last step, then evaluate and export.

        Args:
            resume: whether the run folder may hold checkpoints to go on from.
            losses: takes the total loss of each step, if it is given; reading it waits for the device.

        Raises:
            Interrupted: a signal asked the training to stop, and its state is saved.
            RunError: training has diverged, the disk refuses, or evaluation failed; nothing that was saved is lost.
        """
        resumed = self.restore() if resume else None
        with self._open_logs():
            self._finish_epoch_of(resumed)
            with self._progress_bar() as task, closing(self._loader.batches(self.step)) as batches:
                self.clock.go_on()
                for batch in self.clock.waited_for(self._awaited(batches)):
                    step_losses = self.train_step(batch)
                    if losses is not None:
                        losses.append(step_losses.total.item())
                    self._report_step(task)
                    self._log_steps()
                    if self.step % self.setup.steps_per_epoch == 0:
                        self.end_epoch()
                    if self.stop.after_step() and not self.is_done:
                        self._save_and_stop()
            if self.evaluation is None:
                self.evaluate()
        self.export()

    def _awaited(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches; before one that begins views that a dump is still to add, wait for these."""
        while True:
            if self._loader.follows:
                self._wait_for_views()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _wait_for_views(self) -> None:
        """Wait until the views that the next step begins are in the cache, for every process.

        Raises:
            Interrupted: a signal came; the state is saved.
        """
        views, stored = self._loader.schedule.new_views(self.step), self.setup.stored
        is_logged = False
        while stored is not None and views:
            missing = missing_of_views(stored, views.start, len(views))
            if not self.processes.all_reduce_any(missing is not None):
                return
            if missing is not None and not is_logged:
                self.progress.say(describe_wait(missing))
                is_logged = True
            if self.stop.now():
                self._save_and_stop()
            pause()

    def _save_and_stop(self) -> None:
        self.save()
        self.progress.say(f"Saved after step {self.step:,} of {self.setup.steps:,} in {self.setup.folder}.")
        self.stop.requests.raise_if_requested()

    def train_step(self, batch: Batch) -> Losses:
        """Take one optimiser step on this process's share of a batch; the losses are of this share."""
        losses = self.state.train_step(batch)
        if self.setup.lock is not None:
            self.setup.lock.require_held()
        values = loss_values(losses)
        self._losses.add(values)
        if self.setup.config.log_steps:
            self._recent_losses.add(values)
        self.clock.count(self.setup.config.batch_size)
        return losses

    def end_epoch(self) -> None:
        """Save, evaluate and log an epoch whose last step has just been taken, each where it is time for it.

        Raises:
            RunError: the losses are no numbers any more; evaluation failed, for which nothing is lost.
            Interrupted: a signal came before or during the evaluation; the state is saved.
        """
        self.clock.pause()
        self.state.average_batch_norm()
        config = self.setup.config
        means = self._losses.means(self.processes)
        if not math.isfinite(means["loss"]):
            raise RunError(
                f"The loss of epoch {self.epoch} is {means['loss']}: training has diverged. Lower optimizer.lr, or set "
                f"clip_grad, and start anew with --fresh; earlier checkpoints stay in {self._checkpoints.folder}."
            )
        report = {"epoch": self.epoch, **means, **self._usage_of_all(self._epoch_start)}
        self._epoch_start = self.clock.reading()
        self._losses.clear()
        is_kept = config.keep_epochs is not None and self.epoch % config.keep_epochs == 0
        if is_kept or self.is_done or self._is_scored or self.epoch % config.checkpoint_epochs == 0:
            self.save(report)
        self._complete_epoch(report)
        self.clock.go_on()

    def evaluate(self) -> Evaluation | None:
        """Score the student as it is exported, on the images of --val; None without --val.

        Where the moving average is exported, the weights themselves are scored after it.

        The state has to be saved before.

        Raises:
            RunError: it cannot be scored; says that nothing is lost, and how to go on.
            Interrupted: a signal came.
        """
        if self.setup.val is None:
            return None
        self.stop.now()
        try:
            with self.stop.requests.interrupting():
                averaged = self.state.averaged_module()
                self.evaluation = self._score(averaged)
                self._raw = None if averaged is self.network.module else self._score(self.network.module)
                return self.evaluation
        except (KdcacheError, OSError) as error:
            cause = str(error) if isinstance(error, KdcacheError) else f"{error}."
            raise RunError(
                f"The student cannot be evaluated on --val after step {self.step:,}: {cause} Nothing of the training "
                f"is lost: this step is saved in {self._checkpoints.folder}. When --val is repaired, the same command "
                "evaluates it and goes on from there; without --val it goes on without evaluation."
            ) from error

    def _score(self, module: nn.Module) -> Evaluation:
        assert self.setup.val is not None
        self.processes.broadcast_batch_norm(module)
        computing = Computing(
            self.processes.device, self.state.precision, processes=self.processes, progress=self.progress
        )
        network = Network(module, self.network.card)
        return score(network, self.setup.val, computing, name=self.setup.config.student.name)

    def save(self, report: Mapping[str, Any] | None = None) -> None:
        """Save a checkpoint of the present step, unless there is one. No signal interrupts it.

        Args:
            report: numbers of the epoch that has ended, from which its row is written later.
        """
        if self._saved_step == self.step:
            return
        with self.stop.requests.saving():
            losses = {"epoch": self._losses, "recent": self._recent_losses}
            trainer = self.state.state() | {name: sums.state(self.processes) for name, sums in losses.items()}
            if self.processes.is_main:
                self._checkpoints.save(
                    self.step,
                    model=self.network.module.state_dict(),
                    ema=self.state.ema_state(),
                    epoch=None if self.step % self.setup.steps_per_epoch else self.epoch,
                    trainer=trainer if report is None else {**trainer, "report": dict(report)},
                    metadata=self.network.card.to_metadata(),
                )
            self.processes.barrier()
            self._saved_step = self.step

    def restore(self) -> Checkpoint | None:
        """Go back to where the latest checkpoint was saved; None where there is none."""
        checkpoint = self._checkpoints.latest(self.progress.warn)
        if checkpoint is not None:
            self.state.load(checkpoint)
            self._losses.load(checkpoint.trainer["epoch"])
            if "recent" in checkpoint.trainer:  # which earlier versions did not save
                self._recent_losses.load(checkpoint.trainer["recent"])
            self._saved_step = checkpoint.step
            self.progress.say(f"Going on from step {checkpoint.step:,} of {self.setup.steps:,} in {self.setup.folder}.")
        return checkpoint

    def export(self) -> None:
        """Write the student's weights into the run folder as timm loads them."""
        self.stop.now()
        with self.stop.requests.interrupting():
            if self.processes.is_main:
                export_model(
                    self.setup.folder / "export",
                    self.network,
                    tensors=self.state.ema_state(),
                    dtype=getattr(torch, self.setup.config.export_dtype),
                    class_names=self.setup.class_names,
                )
            self.processes.barrier()

    @contextmanager
    def _open_logs(self) -> Iterator[None]:
        """Open metrics.csv and the other logs, cut after the present step, in the main process."""
        if not self.processes.is_main:
            yield
            return
        raw = () if self.setup.config.ema_decay is None else _RAW_SCORES
        with closing(open_logs(self.setup, self.step, (*_SCORES, *raw), self.progress.warn)) as self._logs:
            yield

    def _finish_epoch_of(self, resumed: Checkpoint | None) -> None:
        """Do what was still to be done when the run was ended after it had saved the state of an epoch's end."""
        report = None if resumed is None else resumed.trainer.get("report")
        if resumed is None or report is None:
            return
        rows = read_metrics(self.setup.folder / METRICS) if self.processes.is_main else []
        is_written = bool(rows) and rows[-1]["step"] == resumed.step
        if not self.processes.all_reduce_any(is_written):
            self._complete_epoch(report)
            return
        top1 = rows[-1]["val_top1"] if rows else None
        if top1 is not None:
            self._checkpoints.note_score(resumed.step, top1)
        # The schedule of every process is told what the main one reads; -1 stands for none.
        here = torch.tensor((-1.0 if top1 is None else top1) if self.processes.is_main else 0.0, dtype=torch.float64)
        top1 = float(self.processes.all_reduce_sum(here).item())
        self._end_schedule_epoch(report, None if top1 < 0 else top1)

    def _complete_epoch(self, report: Mapping[str, Any]) -> None:
        """Evaluate where it is time for it, write the row of the epoch, and note the score, in this order."""
        evaluation = self.evaluate() if self._is_scored else None
        values = dict(report)
        if evaluation is not None:
            values |= dict(zip(_SCORES, (evaluation.top1, evaluation.top5, evaluation.loss), strict=True))
            if self._raw is not None:
                values |= dict(zip(_RAW_SCORES, (self._raw.top1, self._raw.top5, self._raw.loss), strict=True))
            self.progress.say(
                f"Epoch {self.epoch}: {evaluation.accuracies}, loss {evaluation.loss:.4f} on {evaluation.samples:,} "
                "images of --val."
            )
        with self.stop.requests.saving():
            if self._logs is not None:
                self._logs.append_epoch(self.step, values)
            if self.processes.is_main and evaluation is not None:
                self._checkpoints.note_score(self.step, evaluation.top1)
        self._end_schedule_epoch(report, None if evaluation is None else evaluation.top1)

    def _end_schedule_epoch(self, report: Mapping[str, Any], top1: float | None) -> None:
        self.state.end_epoch(top1 if self.setup.val is not None else report["loss"])
        if self._after_epoch is not None:
            self._after_epoch()

    @property
    def _is_scored(self) -> bool:
        """Whether the epoch that has just ended is evaluated."""
        every = self.setup.config.eval_epochs
        return self.setup.val is not None and (self.is_done or (every > 0 and self.epoch % every == 0))

    @contextmanager
    def _progress_bar(self) -> Iterator[Task]:
        size, setup = self.setup.config.batch_size, self.setup
        title = f"Train {setup.config.student.name} from {setup.source}"
        with self.progress.task(title, total=setup.steps * size, done=self.step * size) as task:
            yield task

    def _report_step(self, task: Task) -> None:
        """Count a step; show the figures of its epoch, its loss that of all processes, now and then and at its end."""
        images = self.setup.config.batch_size
        if self.step % _STEPS_BETWEEN_READINGS and self.step % self.setup.steps_per_epoch:
            task.advance(images)
            return
        usage = self._usage(self._epoch_start)
        task.advance(
            images,
            epoch=self._running_epoch,
            step=self.step,
            lr=usage["lr"],
            loss_this_epoch=self._losses.means(self.processes)["loss"],
            wait_share=usage["wait_share"],
            memory_bytes=usage["memory_bytes"],
        )

    def _log_steps(self) -> None:
        """Write the row of the steps since the last one, where it is time for it."""
        every = self.setup.config.log_steps
        if not every or self.step % every:
            return
        means = self._recent_losses.means(self.processes)
        values = {"epoch": self._running_epoch, **means, **self._usage_of_all(self._row_start)}
        if self._logs is not None:
            self._logs.append_steps(self.step, values)
        self._recent_losses.clear()
        self._row_start = self.clock.reading()

    def _usage(self, start: Reading) -> dict[str, float | int]:
        """Return the learning rate of the last step, the speed and waiting since `start`, and the memory so far."""
        speed = self.clock.reading().since(start)
        return {"lr": self.state.last_lr, **speed, "memory_bytes": peak_memory(self.processes.device)}

    def _usage_of_all(self, start: Reading) -> dict[str, float | int | None]:
        """Return `_usage` with the energy of all processes since `start`."""
        joules = self.processes.sum_if_all_know(self.clock.reading().joules_since(start))
        return {**self._usage(start), "energy_joules": joules}

    @property
    def _running_epoch(self) -> int:
        """The number of the epoch that the last step belongs to, counted from 1."""
        return (self.step - 1) // self.setup.steps_per_epoch + 1
