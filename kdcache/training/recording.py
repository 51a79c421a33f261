"""What a training keeps as it goes on, in an order in which no signal, crash or kill can lose any of it.

At the end of an epoch the state is saved first, with the numbers of the epoch. Evaluation follows, then the row of the
epoch in metrics.csv and TensorBoard, then the score that makes a checkpoint the best. Killed between any two of these,
the run that goes on finds in its checkpoint what is to be done, and in metrics.csv whether it was.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdcache.errors import KdcacheError, RunError
from kdcache.evaluation.scoring import Evaluation, score
from kdcache.models.network import Network
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.progress import Progress
from kdcache.training.checkpoint import Checkpoint, Checkpoints
from kdcache.training.epoch import Clock, EpochLosses
from kdcache.training.export import export_model
from kdcache.training.metrics import MetricsTable, TensorBoard, read_metrics
from kdcache.training.setup import Setup
from kdcache.training.stopping import AgreedStop
from kdcache.training.trainer import Trainer

METRICS = "metrics.csv"
_COLUMNS = ("epoch", "lr", "images_per_s", "loss")
_SCORES = ("val_top1", "val_top5", "val_loss")


@dataclass
class Recording:
    """The records of one run. Every process calls each method; the first one writes.

    Attributes:
        folder: the run's.
        losses: of the epoch that is running.
        clock: of the steps, evaluation and saving left out.
    """

    setup: Setup
    network: Network
    trainer: Trainer
    folder: Path
    processes: Distributed
    stop: AgreedStop
    progress: Progress
    losses: EpochLosses = field(init=False)
    clock: Clock = field(init=False, default_factory=Clock)
    _checkpoints: Checkpoints = field(init=False)
    _saved_step: int = field(init=False, default=-1)
    _logs: Sequence[MetricsTable | TensorBoard] = field(init=False, default=())

    def __post_init__(self) -> None:
        config, steps_per_epoch = self.setup.config, self.setup.steps_per_epoch
        self.losses = EpochLosses(config.objective.parts)
        self._checkpoints = Checkpoints(
            self.folder / "checkpoints",
            keep=config.keep_checkpoints,
            keep_every=config.keep_epochs and config.keep_epochs * steps_per_epoch,
        )

    def restore(self) -> Checkpoint | None:
        """Go back to where the latest checkpoint was made, if there is one."""
        checkpoint = self._checkpoints.latest(self.progress.warn)
        if checkpoint is not None:
            self.trainer.load(checkpoint)
            self.losses.load(checkpoint.trainer["epoch"])
            self._saved_step = checkpoint.step
            self.progress.say(f"Going on from step {checkpoint.step:,} of {self.setup.steps:,} in {self.folder}.")
        return checkpoint

    @contextmanager
    def logs(self, resumed: Checkpoint | None) -> Iterator[Evaluation | None]:
        """Open metrics.csv and TensorBoard's events for the block, and finish the epoch that a run has resumed at.

        Gives the evaluation of that epoch, where it was made only now.
        """
        if not self.processes.is_main:
            yield self._finish(resumed)
            return
        columns = (*_COLUMNS, *self.setup.config.objective.parts, *_SCORES)
        table = MetricsTable(self.folder / METRICS, columns, resume_step=self.trainer.step)
        last_row = next(reversed(table.rows()), None)
        with closing(TensorBoard(self.folder / "events", warn=self.progress.warn, last_row=last_row)) as board:
            self._logs = (table, board)
            yield self._finish(resumed)

    def _finish(self, resumed: Checkpoint | None) -> Evaluation | None:
        """Do what was still to be done when the run was ended after it had saved the state of an epoch's end."""
        report = None if resumed is None else resumed.trainer.get("report")
        if resumed is None or report is None:
            return None
        rows = read_metrics(self.folder / METRICS) if self.processes.is_main else []
        written = bool(rows) and rows[-1]["step"] == resumed.step
        if not self.processes.all_reduce_any(written):
            return self._complete(report)
        if self.processes.is_main and (top1 := rows[-1]["val_top1"]) is not None:
            self._checkpoints.note_score(resumed.step, top1)
        return None

    def end_epoch(self) -> Evaluation | None:
        """Save and report an epoch whose last step has just been taken; returns the score, if it was time for one.

        Raises:
            RunError: the losses are no numbers any more; evaluation failed, for which nothing is lost.
            Interrupted: a signal came before or during the evaluation; the state is saved.
        """
        self.clock.pause()
        config, number = self.setup.config, self._epoch
        means = self.losses.means(self.processes)
        if not math.isfinite(means["loss"]):
            raise RunError(
                f"The loss of epoch {number} is {means['loss']}: training has diverged. Lower optimizer.lr, or set "
                f"clip_grad, and start anew with --fresh; earlier checkpoints stay in {self._checkpoints.folder}."
            )
        report = {"epoch": number, "lr": self.trainer.last_lr, "images_per_s": self.clock.lap(), **means}
        self.losses.clear()
        stays = config.keep_epochs is not None and number % config.keep_epochs == 0
        if stays or self._is_last or self._is_scored or number % config.checkpoint_epochs == 0:
            self.save(report)
        evaluation = self._complete(report)
        self.clock.go_on()
        return evaluation

    def save(self, report: Mapping[str, Any] | None = None) -> None:
        """Save the state, unless it is saved already. No signal interrupts it.

        Args:
            report: numbers of the epoch that has ended, from which its row is written later.
        """
        if self._saved_step == self.trainer.step:
            return
        with self.stop.requests.saving():
            state = {**self.trainer.state(), "epoch": self.losses.state(self.processes)}
            if self.processes.is_main:
                self._checkpoints.save(
                    self.trainer.step,
                    model=self.network.module.state_dict(),
                    ema=self.trainer.ema_state(),
                    epoch=None if self.trainer.step % self.setup.steps_per_epoch else self._epoch,
                    trainer=state if report is None else {**state, "report": dict(report)},
                    metadata=self.network.card.to_metadata(),
                )
            self.processes.barrier()
            self._saved_step = self.trainer.step

    def evaluate(self) -> Evaluation | None:
        """Score the student as it is exported, of which the state is saved; None without --val.

        Raises:
            RunError: it cannot be scored; says that nothing is lost, and how to go on.
            Interrupted: a signal came.
        """
        if self.setup.val is None:
            return None
        module = self.trainer.averaged_module()
        self.stop.now()
        try:
            with self.stop.requests.interrupting():
                self.processes.broadcast_batch_norm(module)
                return score(
                    Network(module, self.network.card),
                    self.setup.val,
                    name=self.setup.config.student.name,
                    device=self.processes.device,
                    precision=self.trainer.precision,
                    processes=self.processes,
                    progress=self.progress,
                )
        except (KdcacheError, OSError) as error:
            cause = str(error) if isinstance(error, KdcacheError) else f"{error}."
            raise RunError(
                f"The student cannot be evaluated on --val after step {self.trainer.step:,}: {cause} Nothing of the "
                f"training is lost: this step is saved in {self._checkpoints.folder}. When --val is mended, the same "
                "command evaluates it and goes on from there; without --val it goes on without evaluation."
            ) from error

    def export(self) -> None:
        """Write what timm loads."""
        self.stop.now()
        with self.stop.requests.interrupting():
            if self.processes.is_main:
                export_model(
                    self.folder / "export",
                    self.network,
                    tensors=self.trainer.ema_state(),
                    dtype=getattr(torch, self.setup.config.export_dtype),
                    class_names=self.setup.class_names,
                )
            self.processes.barrier()

    def _complete(self, report: Mapping[str, Any]) -> Evaluation | None:
        """Evaluate where it is time for it, write the row of the epoch, and note the score, in this order."""
        evaluation = self.evaluate() if self._is_scored else None
        values = dict(report)
        if evaluation is not None:
            values |= dict(zip(_SCORES, (evaluation.top1, evaluation.top5, evaluation.loss), strict=True))
            self.progress.say(
                f"Epoch {self._epoch}: top-1 {evaluation.top1:.2%}, top-5 {evaluation.top5:.2%}, loss "
                f"{evaluation.loss:.4f} on {evaluation.samples:,} images of --val."
            )
        with self.stop.requests.saving():
            for log in self._logs:
                log.append(self.trainer.step, values)
            if self.processes.is_main and evaluation is not None:
                self._checkpoints.note_score(self.trainer.step, evaluation.top1)
        return evaluation

    @property
    def _epoch(self) -> int:
        """Epochs that are done."""
        return self.trainer.step // self.setup.steps_per_epoch

    @property
    def _is_last(self) -> bool:
        return self.trainer.step == self.setup.steps

    @property
    def _is_scored(self) -> bool:
        """Whether the epoch that has just ended is evaluated."""
        every = self.setup.config.eval_epochs
        return self.setup.val is not None and (self._is_last or (every > 0 and self._epoch % every == 0))
