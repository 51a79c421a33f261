"""The state that an optimiser step changes: weights, optimiser, learning rate, moving average, random states."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from kdcache.errors import ConfigError
from kdcache.models.features import feature_size, watched_features
from kdcache.models.maps import WithMaps
from kdcache.objectives.base import Losses, LossInputs, LossSpec, TeacherTargets
from kdcache.runtime.device import autocast
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.transfer import to_device
from kdcache.targets.base import Targets
from kdcache.training.checkpoint import Checkpoint, restore_torch_random_state, torch_random_state
from kdcache.training.config import RunConfig
from kdcache.training.learning_rate import LearningRate
from kdcache.training.objective_module import create_aux_module
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
        needs = self._objective.needs
        watched = WithMaps(self.module, needs.student_layers) if needs.maps else None
        self._gives_maps = watched is not None
        trained = self.module if watched is None else watched
        self._shared = processes.wrap_ddp(trained if config.compile is None else _compiled(trained, config))
        self._processes = processes
        self.step = 0
        self.precision = precision
        self._device = processes.device
        self._accumulation, self._dist_bn = config.accumulation, config.dist_bn
        self._history = history
        spec = _with_student(spec, self.module, watched, config)
        aux_module = create_aux_module(self._objective, spec, config.seed)
        self._aux_module = None if aux_module is None else aux_module.to(processes.device)
        self._optimizer = create_optimizer(self.module, self._aux_module, config)
        self._limit = GradientLimit(self.module, self._optimizer, config)
        self._epochs, self._steps_per_epoch = config.schedule.epochs, steps_per_epoch
        self._learning_rate = LearningRate(self._optimizer, config.schedule, steps_per_epoch, scored=scored)
        self._scaler = GradScaler(processes.device.type, enabled=precision == "fp16")
        self._ema = None if config.ema_decay is None else _average(self.module, config, config.ema_decay)
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
        past_probs = None if self._history is None else self._history.read(epoch, samples, weight)
        size = len(inputs) // self._accumulation
        self._optimizer.zero_grad()
        found: list[tuple[Losses, Tensor]] = []
        for part in (slice(start, start + size) for start in range(0, len(inputs), size)):
            is_last = part.stop == len(inputs)
            # Gradients of several processes are averaged once, with those of the last part.
            with nullcontext() if is_last else getattr(self._shared, "no_sync", nullcontext)():
                losses, logits = self._forward(
                    inputs[part],
                    targets if size == len(inputs) or targets is None else cast(Targets, targets)[part],
                    labels[part],
                    weight[part],
                    samples[part],
                    None if past_probs is None else past_probs[part],
                )
                # Parts are equal, so the mean over the batch is the mean of the means over parts.
                self._scaler.scale(losses.total / self._accumulation).backward()
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
            self._history.write(epoch, samples, torch.cat([logits for _, logits in found]))
        return _mean_losses([losses for losses, _ in found])

    def _forward(
        self,
        inputs: Float[Tensor, "b 3 s s"],
        targets: TeacherTargets | None,
        labels: Int64[Tensor, "b 2"],
        weight: Float[Tensor, "b"],
        samples: Int64[Tensor, "b"],
        past_probs: Float[Tensor, "b c"] | None,
    ) -> tuple[Losses, Float[Tensor, "b c"]]:
        """Return the losses and the logits of rows of a batch; arguments as `train_step` has them."""
        mixed = partial(autocast, self.precision, self._device)
        with mixed(), self._watched() as features:
            output = self._shared(inputs.contiguous(memory_format=torch.channels_last))
        logits, maps = output if self._gives_maps else (output, ())
        logits = logits.float()
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
                epoch=self.step // self._steps_per_epoch,
                epochs=self._epochs,
            )
        )
        return losses, logits

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

    def _watched(self) -> AbstractContextManager[list[Tensor]]:
        return watched_features(self.module) if self._objective.needs.features else nullcontext([])


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
    backends = torch.compiler.list_backends(exclude_tags=())
    if config.compile not in backends:
        raise ConfigError(
            f"compile is {config.compile!r}, which is no backend of torch.compile here: give one of "
            f"{', '.join(backends)}, or null."
        )
    if config.objective.needs.features:
        raise ConfigError(
            f"compile is set, and the objective {config.objective.name} reads features within the student, which a "
            "compiled model does not show: leave compile out, or choose another objective."
        )
    return torch.compile(module, backend=config.compile)  # type: ignore[return-value] # a module of a module


def _with_student(spec: LossSpec, module: nn.Module, watched: WithMaps | None, config: RunConfig) -> LossSpec:
    """Return the `LossSpec` with the facts about the student that the objective needs."""
    features = feature_size(module) if config.objective.needs.features else None
    if watched is None:
        return spec._replace(num_features=features)
    assert config.student.size is not None  # resolved by the setup
    return spec._replace(num_features=features, maps=watched.shapes(config.student.size))
