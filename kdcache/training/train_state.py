"""The state that an optimiser step changes: weights, optimiser, learning rate, moving average, random states."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import timm.optim
import torch
from jaxtyping import Float, Int64
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from kdcache.errors import ConfigError, reason
from kdcache.models.features import feature_size, watched_features
from kdcache.models.maps import WithMaps
from kdcache.objectives.base import Losses, LossInputs, LossSpec, TeacherTargets
from kdcache.runtime.device import autocast
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.transfer import to_device
from kdcache.training.checkpoint import Checkpoint, restore_torch_random_state, torch_random_state
from kdcache.training.config import RunConfig
from kdcache.training.learning_rate import LearningRate
from kdcache.training.objective_module import create_aux_module
from kdcache.training.prediction_history import PredictionHistory


class TrainState:
    """A student with timm's optimiser, scheduler and moving average, all of which advance by optimiser steps.

    Attributes:
        module: the student.
        step: number of optimiser steps done.
        precision: "fp32", "bf16" or "fp16".
    """

    def __init__(
        self,
        module: nn.Module,
        config: RunConfig,
        *,
        steps_per_epoch: int,
        spec: LossSpec,
        processes: Distributed,
        precision: str,
        history: PredictionHistory | None = None,
        scored: bool = False,
    ) -> None:
        """
        Args:
            module: the student, in training mode; moved to the device of this process.
            config: resolved configuration.
            spec: facts about the data set and the teacher; those about the student are added here.
            precision: "fp32", "bf16" or "fp16"; weights are float32 always.
            history: the student's earlier predictions, where the objective needs them.
            scored: whether `end_epoch` is told a score, not a loss.

        Raises:
            ConfigError: an optimiser that timm does not have, or that these settings do not fit.
            ModelError: the objective needs the student's features or feature maps, and it has none.
            UsageError: they do not fit the teacher's.
        """
        # The layout that tensor cores want; on CPUs, too, small convolutional networks ran faster in it.
        self.module = module.to(processes.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._objective = config.objective
        needs = self._objective.needs
        watched = WithMaps(self.module, needs.student_layers) if needs.maps else None
        self._gives_maps = watched is not None
        self._shared = processes.wrap_ddp(self.module if watched is None else watched)
        self._processes = processes
        self.step = 0
        self.precision = precision
        self._device = processes.device
        self._clip_grad = config.clip_grad
        self._history = history
        spec = _with_student(spec, self.module, watched, config)
        aux_module = create_aux_module(self._objective, spec, config.seed)
        self._aux_module = None if aux_module is None else aux_module.to(processes.device)
        self._optimizer = _optimizer(self.module, self._aux_module, config)
        self._epochs, self._steps_per_epoch = config.schedule.epochs, steps_per_epoch
        self._learning_rate = LearningRate(self._optimizer, config.schedule, steps_per_epoch, scored=scored)
        self._scaler = GradScaler(processes.device.type, enabled=precision == "fp16")
        self._ema = None if config.ema_decay is None else ModelEmaV3(self.module, decay=config.ema_decay)
        # Each process draws its own dropout and drop path.
        torch.manual_seed(config.seed + processes.rank)

    def train_step(
        self,
        inputs: Float[Tensor, "b 3 s s"],
        targets: TeacherTargets | None,
        labels: Int64[Tensor, "b 2"],
        weight: Float[Tensor, "b"],
        samples: Int64[Tensor, "b"],
    ) -> Losses:
        """Take one optimiser step on a batch of normalised images, and return its losses, still on the device.

        Args:
            targets: the teacher's targets; None where the objective needs none.
            labels: each row's own label and its mixing partner's, -1 for none.
            weight: each row's own share of the mix.
            samples: position of each row's sample in the index.
        """
        epoch = self.step // self._steps_per_epoch
        mixed = partial(autocast, self.precision, self._device)
        with mixed(), self._watched() as features:
            output = self._shared(inputs.contiguous(memory_format=torch.channels_last))
        logits, maps = output if self._gives_maps else (output, ())
        logits = logits.float()
        past_probs = None if self._history is None else self._history.read(epoch, samples, weight)
        losses = self._objective(
            LossInputs(
                logits,
                to_device(labels, self._device),
                to_device(weight, self._device),
                targets,
                features=features[0].float() if features else None,
                maps=maps,
                past_probs=None if past_probs is None else to_device(past_probs, self._device),
                samples=to_device(samples, self._device),
                aux_module=self._aux_module,
                mixed=mixed,
                epoch=epoch,
                epochs=self._epochs,
            )
        )
        self._optimizer.zero_grad()
        self._scaler.scale(losses.total).backward()
        if self._aux_module is not None:
            self._processes.average_gradients(self._aux_module)
        if self._clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._optimizer_parameters(), self._clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1
        self._learning_rate.set(self.step)
        if self._ema is not None:
            self._ema.update(self.module, step=self.step)
        if self._history is not None:
            self._history.write(epoch, samples, logits)
        return losses

    @property
    def last_lr(self) -> float:
        """The learning rate of the last step done; of the first one, if none is done."""
        return self._learning_rate.last

    def end_epoch(self, metric: float | None) -> None:
        """Tell the schedule the score or the loss of the epoch that has ended; None where it was not scored."""
        self._learning_rate.end_epoch(self.step // self._steps_per_epoch, metric)

    def averaged_module(self) -> nn.Module:
        """Return the module to evaluate and export: the moving average where there is one."""
        return self.module if self._ema is None else self._ema.module

    def ema_state(self) -> dict[str, Tensor] | None:
        """Return the state dict of the moving average; None where there is none."""
        return None if self._ema is None else self._ema.module.state_dict()

    def state(self) -> dict[str, Any]:
        """Return what the next steps depend on beside weights and average: a tree for a checkpoint.

        Every process has to call it.
        """
        if self._history is not None:
            self._history.flush(self.step // self._steps_per_epoch)
        aux_module = {} if self._aux_module is None else {"aux_module": self._aux_module.state_dict()}
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "learning_rate": self._learning_rate.state(),
            "random": torch_random_state(self._processes),
            **aux_module,
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore weights, optimiser, scheduler, scaler and random states from a checkpoint."""
        self.step = checkpoint.step
        self.module.load_state_dict(checkpoint.model)
        if self._ema is not None and checkpoint.ema is not None:
            self._ema.module.load_state_dict(checkpoint.ema)
        if self._aux_module is not None:
            self._aux_module.load_state_dict(checkpoint.trainer["aux_module"])
        self._optimizer.load_state_dict(checkpoint.trainer["optimizer"])
        self._scaler.load_state_dict(checkpoint.trainer["scaler"])
        self._learning_rate.load(checkpoint.trainer.get("learning_rate", {}), self.step)
        restore_torch_random_state(checkpoint.trainer["random"], self._processes)

    def _watched(self) -> AbstractContextManager[list[Tensor]]:
        return watched_features(self.module) if self._objective.needs.features else nullcontext([])

    def _optimizer_parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


def _with_student(spec: LossSpec, module: nn.Module, watched: WithMaps | None, config: RunConfig) -> LossSpec:
    """Return the `LossSpec` with the facts about the student that the objective needs."""
    features = feature_size(module) if config.objective.needs.features else None
    if watched is None:
        return spec._replace(num_features=features)
    assert config.student.size is not None  # resolved by the setup
    return spec._replace(num_features=features, maps=watched.shapes(config.student.size))


def _optimizer(module: nn.Module, aux_module: nn.Module | None, config: RunConfig) -> torch.optim.Optimizer:
    settings = config.optimizer
    own = {name: value for name in ("betas", "eps") if (value := getattr(settings, name)) is not None}
    try:
        optimizer = timm.optim.create_optimizer_v2(
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
    if aux_module is not None:
        for group in timm.optim.param_groups_weight_decay(aux_module, settings.weight_decay):
            if group["params"]:
                optimizer.add_param_group(group)
    return optimizer
