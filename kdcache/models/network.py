"""A module together with what it must be fed."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from kdcache.models.card import ModelCard


def normalise(
    pixels: Float[Tensor, "b c h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b c h w"]:
    """(pixels - 255 mean) / (255 std) for pixels in 0..255, in the order that timm's loader computes it."""
    centre = pixels.new_tensor([255.0 * part for part in mean]).view(1, -1, 1, 1)
    spread = pixels.new_tensor([255.0 * part for part in std]).view(1, -1, 1, 1)
    return (pixels - centre).div_(spread)  # in place: a fresh batch costs more than the arithmetic


@dataclass(frozen=True)
class Network:
    """A timm model and its card. The module is bare, so that its state dict has timm's own names."""

    module: nn.Module
    card: ModelCard

    def normalise(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Pixels in 0..255, mixed or not, as this model wants them."""
        return normalise(pixels, self.card.mean, self.card.std)
