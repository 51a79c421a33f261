"""The learning rate of each optimiser step, by timm's schedulers."""

import warnings
from typing import Any

import timm.scheduler
import torch

from kdcache.errors import RunError
from kdcache.training.sections import ScheduleConfig

#: What torch's ReduceLROnPlateau counts; timm's own state of it leaves the bad epochs out.
_COUNTED = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
#: By which a schedule is multiplied where `decay_rate` is null; the power of poly.
_DECAY_RATE = {"poly": 1.0}


class LearningRate:
    """Sets the learning rate of an optimiser's groups before each step; the only place that does.

    Every schedule but plateau is a function of the step alone. That of plateau depends on the scores that
    `end_epoch` is told, so it has a state, of which the rates themselves are kept by the optimiser.

    Attributes:
        last: the learning rate of the last step done; of the first one, if none is done. Where layers have rates of
            their own (`layer_decay`), it is that of the head.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: ScheduleConfig, steps_per_epoch: int, *, scored: bool
    ) -> None:
        """
        Args:
            optimizer: its groups have their peak rates.
            scored: whether epochs are told a score, of which more is better, and not a loss; for plateau.
        """
        self._optimizer, self._steps_per_epoch = optimizer, steps_per_epoch
        self._by_epoch = not settings.on_updates
        self._scored = scored
        self._is_plateau = settings.name == "plateau"
        self._scheduler = _scheduler(optimizer, settings, steps_per_epoch, scored)
        self.last = self.set(0)

    def set(self, step: int) -> float:
        """Set the learning rate of the step after `step` steps; return that of the last one, as `last` is."""
        self._set(max(step - 1, 0))
        self.last = max(float(group["lr"]) for group in self._optimizer.param_groups)
        self._set(step)
        return self.last

    def end_epoch(self, epochs: int, metric: float | None) -> None:
        """Tell the schedule of plateau the score or the loss of an epoch; the others do not ask.

        Args:
            epochs: number of epochs done.
            metric: score or loss; None for an epoch that was not scored.
        """
        if self._is_plateau:
            self._scheduler.step(epochs, metric)

    def state(self) -> dict[str, Any]:
        """Return what the rates depend on beside the step and the optimiser's state; empty for all but plateau."""
        if not self._is_plateau:
            return {}
        counted = self._scheduler.lr_scheduler.state_dict()
        return {"scored": self._scored, **{name: counted[name] for name in _COUNTED}}

    def load(self, state: dict[str, Any], step: int) -> None:
        """Go on after `step` steps, once the optimiser has its own state.

        Raises:
            RunError: the run was scored on --val until now and is not any more, or the other way round.
        """
        if self._is_plateau:
            if state["scored"] != self._scored:
                was, now = ("the top-1 on --val", "the loss") if state["scored"] else ("the loss", "the top-1 on --val")
                raise RunError(
                    f"The learning rate of this run falls by {was}, and from here on it would by {now}: "
                    f"{'give' if state['scored'] else 'leave out'} --val as before, or begin anew with --fresh."
                )
            self._scheduler.lr_scheduler.load_state_dict({name: state[name] for name in _COUNTED})
        self.set(step)

    def _set(self, step: int) -> None:
        if self._by_epoch:
            if not self._is_plateau:
                self._scheduler.step(step // self._steps_per_epoch)
        else:
            self._scheduler.step_update(step)  # that of plateau does nothing


def _scheduler(optimizer: torch.optim.Optimizer, settings: ScheduleConfig, steps_per_epoch: int, scored: bool) -> Any:
    by_update = settings.on_updates and settings.name != "plateau"
    rate = _DECAY_RATE.get(settings.name, 0.1) if settings.decay_rate is None else settings.decay_rate
    # timm's milestone m applies one step or epoch early, at m - 1. Half of one more makes it apply at m, as the steps
    # of `step` do, those of torch's MultiStepLR, and those of the papers.
    half = 0.5 / steps_per_epoch if by_update else 0.5
    with warnings.catch_warnings():
        # timm deprecates plateau as it cannot resume it; here its state is in the checkpoint.
        warnings.simplefilter("ignore", FutureWarning)
        scheduler, _ = timm.scheduler.create_scheduler_v2(
            optimizer,
            sched=settings.name,
            num_epochs=settings.epochs - settings.cooldown_epochs,
            decay_epochs=settings.decay_epochs,
            decay_milestones=[milestone + half for milestone in settings.decay_milestones or ()],  # type: ignore[misc]
            cooldown_epochs=settings.cooldown_epochs,
            patience_epochs=settings.patience_epochs or 0,
            decay_rate=rate,
            min_lr=settings.min_lr,
            warmup_lr=settings.warmup_lr,
            warmup_epochs=settings.warmup_epochs,
            plateau_mode="max" if scored else "min",
            step_on_epochs=not by_update,
            updates_per_epoch=steps_per_epoch,
        )
    return scheduler
