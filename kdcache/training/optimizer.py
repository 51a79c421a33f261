"""The optimiser of a student, from timm's factory, and the limit of its gradient."""

from collections.abc import Iterable

import timm.optim
import torch
from timm.utils.clip_grad import dispatch_clip_grad
from torch import nn

from kdcache.errors import ConfigError, reason
from kdcache.training.config import RunConfig


def create_optimizer(module: nn.Module, aux_module: nn.Module | None, config: RunConfig) -> torch.optim.Optimizer:
    """Create the optimiser of a student and of what is trained beside it.

    Raises:
        ConfigError: timm does not have it, or it does not take these settings.
    """
    settings = config.optimizer
    own = {name: value for name in ("betas", "eps", "layer_decay") if (value := getattr(settings, name)) is not None}
    try:
        optimizer = timm.optim.create_optimizer_v2(
            module,
            opt=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=settings.filter_bias_and_bn,
            **own,
            **settings.kwargs,
        )
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"timm makes no optimiser {settings.name!r} with these settings ({reason(error)}): change optimizer.name, "
            "or leave out what it does not take."
        ) from error
    if aux_module is not None:
        for group in timm.optim.param_groups_weight_decay(
            aux_module, settings.weight_decay, weight_decay_exclude_1d=settings.filter_bias_and_bn
        ):
            if group["params"]:
                optimizer.add_param_group(group)
    return optimizer


class GradientLimit:
    """Limits the gradient of all that an optimiser trains, by timm's `dispatch_clip_grad`.

    Attributes:
        value: the limit; None for none.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig) -> None:
        """
        Args:
            module: the student, whose classifier adaptive clipping leaves out (Brock et al. 2021).
            optimizer: the optimiser, whose groups have every parameter.
        """
        self.value, self._mode = config.clip_grad, config.clip_mode
        classifier = getattr(module, "get_classifier", lambda: None)()
        spared = _parameters(classifier) if self._mode == "agc" else set()
        self._parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"] if parameter not in spared
        ]

    def apply(self) -> None:
        """Limit the gradients as they are, which are those without a factor of a loss scaler."""
        if self.value is not None:
            dispatch_clip_grad(self._parameters, self.value, mode=self._mode)


def _parameters(layers: object) -> set[nn.Parameter]:
    """Return the parameters of a layer, or of several, of which some classifiers consist."""
    if isinstance(layers, nn.Module):
        return set(layers.parameters())
    several = layers if isinstance(layers, Iterable) else ()
    return {parameter for layer in several for parameter in _parameters(layer)}
