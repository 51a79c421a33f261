"""A module together with the preprocessing of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.models.card import ModelCard
from kdcache.runtime.reused_memory import ReusedMemory

#: The share of red, green and blue in the luminance of ITU-R BT.601, as in Pillow's mode "L", which rounds it.
LUMINANCE = (0.299, 0.587, 0.114)


def luminance(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return the luminance of RGB images, in the unit of the images and not rounded."""
    red, green, blue = (pixels[:, channel : channel + 1] * share for channel, share in enumerate(LUMINANCE))
    return red + green + blue


class Normaliser:
    """Computes (pixels - 255 mean) / (255 std) for pixels in 0..255, in the order that timm's loader computes it.

    With one mean and one deviation, RGB images become their luminance first. Mean and deviation go to a device with the
    first pixels that lie there, and stay: afterwards nothing is copied.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """`mean`, `std`: mean and standard deviation of each channel of the model's images, for pixels in 0..1."""
        self.mean, self.std = tuple(mean), tuple(std)
        self.is_grey = len(mean) == 1
        self._mean, self._std = (
            torch.tensor([255.0 * part for part in parts], dtype=torch.float64).view(1, -1, 1, 1)
            for parts in (mean, std)
        )
        self._there: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._memory = ReusedMemory()

    def __call__(self, pixels: Float[Tensor, "b _c h w"]) -> Float[Tensor, "b _k h w"]:
        """Return the normalised pixels; the argument stays as it is."""
        if self.is_grey and pixels.shape[1] == 3:
            pixels = luminance(pixels)
        place = pixels.device, pixels.dtype
        if place not in self._there:
            self._there[place] = self._mean.to(*place), self._std.to(*place)
        mean, std = self._there[place]
        if pixels.requires_grad:
            return (pixels - mean).div_(std)
        # In place, and in the memory of an earlier batch: a fresh one costs more than the arithmetic.
        return torch.sub(pixels, mean, out=self._memory.empty_like(pixels, pixels.dtype)).div_(std)


@dataclass(frozen=True)
class Network:
    """A model and its card. The module is bare, so that its state dict has the model's own names.

    Attributes:
        head: the layer of the module that computes the logits; None for what a timm model calls its classifier.
    """

    module: nn.Module
    card: ModelCard
    head: nn.Module | None = None

    @property
    def classifier(self) -> nn.Module | None:
        """The layer that computes the logits; None where the model does not tell it."""
        if self.head is not None:
            return self.head
        get_classifier = getattr(self.module, "get_classifier", None)
        found = get_classifier() if callable(get_classifier) else None
        return found if isinstance(found, nn.Module) else None

    def compute_logits(self, inputs: Float[Tensor, "b _ s s"]) -> Float[Tensor, "b c"]:
        """Return the logits of normalised images: the output of the module, or its `logits`, as Hugging Face's have.

        Raises:
            ModelError: the output is no logit for each class and image.
        """
        output = self.module(inputs)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        wanted = (len(inputs), self.card.num_classes)
        if tuple(logits.shape) != wanted:
            raise ModelError(
                f"{self.card.architecture} gives {len(inputs)} images an output of shape {list(logits.shape)}, and not "
                f"one logit for each of {self.card.num_classes:,} classes {list(wanted)}, so that its answers cannot "
                "be told apart: wrap it in a module that returns these, whatever the number of images is."
            )
        return logits

    @cached_property
    def normalise(self) -> Normaliser:
        """The normalisation from pixels in 0..255, mixed or not, to the inputs of the model."""
        return Normaliser(self.card.mean, self.card.std)
