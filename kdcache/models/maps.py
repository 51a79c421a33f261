"""Feature maps of a timm model: the choice of layers, their shapes, and a forward pass with logits and maps."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdcache.errors import ConfigError, ModelError, reason

STAGES = 4
"""The number of layers that are taken by custom: as many as a usual network has stages."""


def choose_layers(module: nn.Module, wanted: tuple[int, ...] | str) -> tuple[int, ...]:
    """Return the chosen layers, ascending, among those whose maps timm gives (`forward_intermediates`).

    Args:
        wanted: "stages": the last layer of each of the four coarsest resolutions, which is each stage of a usual
            convolutional network; of a network that has one resolution throughout, four layers at even distances, the
            last among them. "middle": the middle one of these, the finer of two. Or the numbers themselves, ascending,
            negative ones from the end.

    Raises:
        ModelError: timm gives no maps of such a model.
        ConfigError: numbers that it does not have.
    """
    reductions = _reductions(module)
    count = len(reductions)
    if not isinstance(wanted, str):
        numbers = tuple(number + count if number < 0 else number for number in wanted)
        if not numbers or list(numbers) != sorted({*numbers}) or not 0 <= numbers[0] <= numbers[-1] < count:
            raise ConfigError(
                f"Layers {list(wanted)} of {type(module).__name__} are asked for, and it has {count}, 0 to "
                f"{count - 1}: give some of these, ascending, each once."
            )
        return numbers
    last = {reduction: number for number, reduction in enumerate(reductions)}
    if len(last) > 1:
        stages = sorted(last.values())[-STAGES:]
    else:
        parts = min(STAGES, count)
        stages = [count * (part + 1) // parts - 1 for part in range(parts)]
    return (stages[(len(stages) - 1) // 2],) if wanted == "middle" else tuple(stages)


def logits_and_maps(model: Any, inputs: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return what `WithMaps` does, by a function that torch.compile can trace where shapes are checked at run time."""
    last, maps = model.forward_intermediates(inputs, indices=list(layers))
    return model.forward_head(last), tuple(maps)


class WithMaps(nn.Module):
    """A timm model that returns feature maps beside the logits, which stay the same bit for bit.

    It is a module so that DistributedDataParallel can hold it.
    """

    def __init__(self, module: nn.Module, wanted: tuple[int, ...] | str) -> None:
        """Arguments and errors as `choose_layers` has them."""
        super().__init__()
        self.module = module
        self.layers = choose_layers(module, wanted)

    def forward(
        self, inputs: Float[Tensor, "b _ s s"]
    ) -> tuple[Float[Tensor, "b c"], tuple[Float[Tensor, "b _ _ _"], ...]]:
        """Logits, and the maps of the chosen layers from fine to coarse: channels, height, width, whatever the model's
        own layout is."""
        return logits_and_maps(self.module, inputs, self.layers)

    def shapes(self, size: int, channels: int = 3) -> tuple[tuple[int, int, int], ...]:
        """Return channels, height and width of the maps of an image of `size` pixels a side and `channels` channels.

        They are found by a forward pass that changes nothing: neither batch statistics nor torch's random state.

        Raises:
            ModelError: the model does not give them.
        """
        training = [module for module in self.modules() if module.training]
        parameter = next(self.module.parameters())
        image = torch.zeros(1, channels, size, size, device=parameter.device, dtype=parameter.dtype)
        self.eval()
        try:
            with torch.inference_mode():
                _, maps = self(image)
        except Exception as error:  # whatever a model that timm has not finished may raise
            raise ModelError(
                f"{type(self.module).__name__} gives no feature maps at {size} pixels ({reason(error)}): choose "
                "another model or another objective.name."
            ) from error
        finally:
            for module in training:
                module.training = True
        return tuple((level.shape[1], level.shape[2], level.shape[3]) for level in maps)


def _reductions(module: nn.Module) -> Sequence[int]:
    """Return the factor by which each layer's maps are smaller than the image."""
    info: Any = getattr(module, "feature_info", None)
    if not info or not callable(getattr(module, "forward_intermediates", None)):
        raise ModelError(
            f"timm has no feature maps of {type(module).__name__}, and the objective needs them: choose another model "
            "or another objective.name."
        )
    return [int(layer["reduction"]) for layer in info]
