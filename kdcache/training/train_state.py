"""The state that an optimiser step changes: weights, optimiser, learning rate, moving average, random states."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from kdcache.errors import ConfigError
from kdcache.loader.batches import Batch
from kdcache.models.compiled import require_backend
from kdcache.models.features import feature_size
from kdcache.models.student_outputs import WithStudentOutputs
from kdcache.objectives.base import Losses, LossSpec
from kdcache.runtime.device import autocast
from kdcache.runtime.distributed import Distributed
from kdcache.training.checkpoint import Checkpoint, restore_torch_random_state, torch_random_state
from kdcache.training.config import RunConfig
from kdcache.training.learning_rate import LearningRate
from kdcache.training.objective_module import create_aux_module, loss_inputs, wrap_student
from kdcache.training.optimizer import GradientLimit, create_optimizer
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
        history: PredictionHistory | None = None,
        scored: bool = False,
    ) -> None:
        """
        Args:
            module: the student, in training mode; moved to the device of this process.
            config: resolved configuration; weights are float32 whatever its precision.
            spec: facts about the data set and the teacher; those about the student are added here.
            history: the student's earlier predictions, where the objective needs them.
            scored: whether `end_epoch` is told a score, not a loss.

        Raises:
            ConfigError: an optimiser that timm does not have or these settings do not fit, checkpointing or a compiled
                form that the student does not have.
            ModelError: the objective needs the student's features or feature maps, and it has none.
            UsageError: they do not fit the teacher's.
        """
        # The layout that tensor cores want; on CPUs, too, small convolutional networks ran faster in it.
        self.module = module.to(processes.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.grad_checkpointing:
            _checkpoint_gradients(self.module, config.student.name)
        self._objective = config.objective
        student = wrap_student(self.module, self._objective.needs)
        self._shared = processes.wrap_ddp(student if config.compile is None else _compiled(student, config))
        self._processes = processes
        self.step = 0
        self.precision = config.precision
        self._device = processes.device
        self._accumulation, self._dist_bn = config.accumulation, config.dist_bn
        self._history = history
        aux_module = create_aux_module(self._objective, _with_student(spec, student, config), config.seed)
        self._aux_module = None if aux_module is None else aux_module.to(processes.device)
        self._optimizer = create_optimizer(self.module, self._aux_module, config)
        self._limit = GradientLimit(self.module, self._optimizer, config)
        self._epochs, self._steps_per_epoch = config.schedule.epochs, steps_per_epoch
        self._learning_rate = LearningRate(self._optimizer, config.schedule, steps_per_epoch, scored=scored)
        self._scaler = GradScaler(processes.device.type, enabled=config.precision == "fp16")
        self._ema = None if config.ema_decay is None else _average(self.module, config, config.ema_decay)
        # Each process draws its own dropout and drop path.
        torch.manual_seed(config.seed + processes.rank)

    def train_step(self, batch: Batch) -> Losses:
        """Take one optimiser step on a batch of normalised images, and return its losses, still on the device.

        Args:
            batch: images and targets on the device; without targets where the objective needs none.
        """
        epoch = self.step // self._steps_per_epoch
        past_probs = None if self._history is None else self._history.read(epoch, batch.samples, batch.mix_weight)
        size, is_whole = len(batch) // self._accumulation, self._accumulation == 1
        self._optimizer.zero_grad()
        found: list[tuple[Losses, Tensor]] = []
        for part in (slice(start, start + size) for start in range(0, len(batch), size)):
            is_last = part.stop == len(batch)
            # Gradients of several processes are averaged once, with those of the last part.
            with nullcontext() if is_last else getattr(self._shared, "no_sync", nullcontext)():
                losses, logits = self._forward(
                    batch if is_whole else _rows_of(batch, part),
                    None if past_probs is None else past_probs[part],
                )
                # Parts are equal, so the mean over the batch is the mean of the means over parts.
                share = losses.total if is_whole else losses.total / self._accumulation
                self._scaler.scale(share).backward()
            found.append((losses, logits.detach()))
        if self._aux_module is not None:
            self._processes.average_gradients(self._aux_module)
        if self._limit.value is not None:
            self._scaler.unscale_(self._optimizer)
            self._limit.apply()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1
        self._learning_rate.set(self.step)
        if self._ema is not None:
            self._ema.update(self.module, step=self.step)
        if self._history is not None:
            self._history.write(epoch, batch.samples, torch.cat([logits for _, logits in found]))
        return _mean_losses([losses for losses, _ in found])

    def _forward(self, batch: Batch, past_probs: Float[Tensor, "b c"] | None) -> tuple[Losses, Float[Tensor, "b c"]]:
        """Return the losses and the logits of rows of a batch."""
        mixed = partial(autocast, self.precision, self._device)
        with mixed():
            outputs = self._shared(batch.images.contiguous(memory_format=torch.channels_last))
        inputs = loss_inputs(
            outputs,
            batch,
            aux_module=self._aux_module,
            epoch=self.step // self._steps_per_epoch,
            epochs=self._epochs,
            past_probs=past_probs,
            mixed=mixed,
        )
        return self._objective(inputs), inputs.logits

    @property
    def last_lr(self) -> float:
        """The learning rate of the last step done; of the first one, if none is done."""
        return self._learning_rate.last

    def end_epoch(self, metric: float | None) -> None:
        """Tell the schedule the score or the loss of the epoch that has ended; None where it was not scored."""
        self._learning_rate.end_epoch(self.step // self._steps_per_epoch, metric)

    def average_batch_norm(self) -> None:
        """Give all processes the mean of their running statistics of batch normalisation, where this is asked for."""
        if self._dist_bn == "reduce":
            for module in (self.module, *(() if self._ema is None else (self._ema.module,))):
                self._processes.average_batch_norm(module)

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


def _rows_of(batch: Batch, rows: slice) -> Batch:
    """Return some consecutive rows of a batch."""
    return replace(
        batch,
        images=batch.images[rows],
        labels=batch.labels[rows],
        mix_weight=batch.mix_weight[rows],
        samples=batch.samples[rows],
        targets=None if batch.targets is None else batch.targets[rows],
    )


def _mean_losses(parts: Sequence[Losses]) -> Losses:
    """Return the mean of the losses of equal parts of a batch."""
    if len(parts) == 1:
        return parts[0]
    total = torch.stack([losses.total.detach() for losses in parts]).mean()
    names = parts[0].parts
    return Losses(
        total, {name: torch.stack([losses.parts[name].detach() for losses in parts]).mean() for name in names}
    )


def _average(module: nn.Module, config: RunConfig, decay: float) -> ModelEmaV3:
    return ModelEmaV3(
        module,
        decay=decay,
        use_warmup=config.ema_warmup,
        warmup_gamma=config.ema_warmup_gamma,
        warmup_power=config.ema_warmup_power,
    )


def _checkpoint_gradients(module: nn.Module, name: str) -> None:
    try:
        module.set_grad_checkpointing(True)  # type: ignore[operator] # of timm's models, not of torch's
    except (AssertionError, AttributeError) as error:
        raise ConfigError(
            f"grad_checkpointing is set, and timm has none for {name}: leave it out, or choose another student."
        ) from error


def _compiled(module: nn.Module, config: RunConfig) -> nn.Module:
    """Return a module that runs compiled and shares the weights of `module`, whose own names do not change."""
    assert config.compile is not None
    require_backend(config.compile, "compile")
    if config.objective.needs.features:
        raise ConfigError(
            f"compile is set, and the objective {config.objective.name} reads features within the student, which a "
            "compiled model does not show: leave compile out, or choose another objective."
        )
    if config.grad_checkpointing and config.compile == "eager" and any(map(_counts_batches, module.modules())):
        raise ConfigError(
            f"compile is eager, and {config.student.name} has batch norm, whose counts this backend changes twice "
            "under grad_checkpointing, so that PyTorch finds no gradient: use inductor or aot_eager, or leave one out."
        )
    return torch.compile(module, backend=config.compile)  # type: ignore[return-value] # a module of a module


def _counts_batches(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.num_batches_tracked is not None


def _with_student(spec: LossSpec, student: nn.Module, config: RunConfig) -> LossSpec:
    """Return the `LossSpec` with the facts about the student that the objective needs."""
    if not isinstance(student, WithStudentOutputs):
        return spec
    features = feature_size(student.module) if config.objective.needs.features else None
    assert config.student.size is not None  # resolved by the setup
    return spec._replace(num_features=features, maps=student.map_shapes(config.student.size, config.student.in_chans))
