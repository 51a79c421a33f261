"""What a model takes: the normalisation, precision and order in memory of its images."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from kdcache.runtime.transfer import array_to_device


@dataclass(frozen=True)
class Normalisation:
    """The images of a model: (pixels - 255 mean) / (255 std), in float32, then rounded to a precision.

    Attributes:
        mean: mean of each channel, for pixels in 0..1.
        std: standard deviation of each channel, for pixels in 0..1.
        dtype: type of the images.
        memory_format: order of the images in memory.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.channels_last

    def on(self, device: torch.device) -> Float32[Tensor, "2 c"]:
        """Return 255 mean and 255 std, rounded to float32, on a device."""
        return array_to_device((255.0 * np.array([self.mean, self.std], np.float64)).astype(np.float32), device)

    def __call__(self, pixels: Float32[Tensor, "b c s s"]) -> Float[Tensor, "b c s s"]:
        """Return the images for pixels in 0..255, by PyTorch's kernels."""
        mean, std = self.on(pixels.device)[:, None, :, None, None]
        return (pixels - mean).div_(std).to(dtype=self.dtype, memory_format=self.memory_format)
