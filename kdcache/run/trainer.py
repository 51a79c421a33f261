"""What changes from step to step: weights, optimiser, schedule, average; and how it is saved and put back."""

from typing import Any

import timm.optim
import torch
from jaxtyping import Float
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from kdcache.device import autocast
from kdcache.errors import ConfigError, reason
from kdcache.objectives.base import Answers, Losses, Objective
from kdcache.run.checkpoint import Checkpoint, restore_torch_random_state, torch_random_state
from kdcache.run.config import RunConfig
from kdcache.run.team import Team


class Trainer:
    """A student and everything that moves it; timm's optimiser, schedule and average, stepped by optimiser steps."""

    def __init__(
        self, module: nn.Module, config: RunConfig, *, steps_per_epoch: int, team: Team, precision: str
    ) -> None:
        """
        Args:
            module: the student, in training mode; moved to the team's device.
            config: resolved.
            precision: "fp32", "bf16" or "fp16"; weights are float32 always.

        Raises:
            ConfigError: an optimiser that timm does not have, or that these settings do not fit.
        """
        # The layout that tensor cores want; on CPUs, too, small convolutional networks ran faster in it.
        self.module = module.to(team.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._shared = team.share(self.module)
        self._team = team
        self.step = 0
        self.precision = precision
        self._device = team.device
        self._clip_grad = config.clip_grad
        self._optimizer = _optimizer(self.module, config)
        schedule = config.schedule
        self._scheduler = CosineLRScheduler(
            self._optimizer,
            t_initial=schedule.epochs * steps_per_epoch,
            lr_min=schedule.min_lr,
            warmup_t=schedule.warmup_epochs * steps_per_epoch,
            warmup_lr_init=schedule.warmup_lr,
            t_in_epochs=False,
        )
        self._scheduler.step_update(0)
        self._scaler = GradScaler(team.device.type, enabled=precision == "fp16")
        self._ema = None if config.ema_decay is None else ModelEmaV3(self.module, decay=config.ema_decay)
        # Each process draws its own dropout and drop path.
        torch.manual_seed(config.seed + team.ranks.rank)

    @property
    def last_lr(self) -> float:
        """The learning rate of the last step taken."""
        rates = self._scheduler._get_lr(max(self.step - 1, 0))
        return float(rates[0])

    def take_step(
        self,
        inputs: Float[Tensor, "b 3 s s"],
        answers: Answers | None,
        labels: Tensor,
        weight: Tensor,
        objective: Objective,
    ) -> Losses:
        """One optimiser step on a batch of normalised pictures; returns its losses, still on the device.

        Args:
            answers: the teacher's; None where the objective needs none.
            labels: int64 [b, 2], own and partner's, -1 for none.
            weight: float32 [b], each row's own share.
        """
        with autocast(self.precision, self._device):
            logits = self._shared(inputs.contiguous(memory_format=torch.channels_last))
        losses = objective(logits.float(), answers, labels.to(self._device), weight.to(self._device))
        self._optimizer.zero_grad()
        self._scaler.scale(losses.total).backward()
        if self._clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self._clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1
        self._scheduler.step_update(self.step)
        if self._ema is not None:
            self._ema.update(self.module, step=self.step)
        return losses

    def averaged_module(self) -> nn.Module:
        """The module to evaluate and export: the average where there is one."""
        return self.module if self._ema is None else self._ema.module

    def ema_state(self) -> dict[str, Tensor] | None:
        """The average's state dict, or None."""
        return None if self._ema is None else self._ema.module.state_dict()

    def state(self) -> dict[str, Any]:
        """Everything beside weights and average that the next steps depend on, as a tree for a checkpoint.

        Every process of the team has to ask.
        """
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": torch_random_state(self._team),
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Be again as when the checkpoint was saved."""
        self.step = checkpoint.step
        self.module.load_state_dict(checkpoint.model)
        if self._ema is not None and checkpoint.ema is not None:
            self._ema.module.load_state_dict(checkpoint.ema)
        self._optimizer.load_state_dict(checkpoint.trainer["optimizer"])
        self._scaler.load_state_dict(checkpoint.trainer["scaler"])
        self._scheduler.step_update(self.step)
        restore_torch_random_state(checkpoint.trainer["random"], self._team)


def _optimizer(module: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    settings = config.optimizer
    own = {name: value for name in ("betas", "eps") if (value := getattr(settings, name)) is not None}
    try:
        return timm.optim.create_optimizer_v2(
            module,
            opt=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            **own,
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"timm makes no optimiser {settings.name!r} with these settings ({reason(error)}): change optimizer.name, "
            "or leave out what it does not take."
        ) from error
