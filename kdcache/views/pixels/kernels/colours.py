"""Operations that mix the channels of a pixel: colour strength, and the hue by way of Pillow's 8-bit HSV, batched.

Where Pillow's C code (Convert.c) holds a `float`, this rounds to single precision; where it computes in `double`, this
does.
"""

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from timm.data import auto_augment as timm_operations
from torch import Tensor
from torchvision.transforms import functional as torchvision_operations

from kdcache.runtime.transfer import array_to_device
from kdcache.views.pixels.kernels.binding import Kernels, WholeImages
from kdcache.views.pixels.kernels.tables import blend, grey


def adjust_color(pixels: UInt8[Tensor, "n 3 s s"], factor: Float32[np.ndarray, "n"]) -> UInt8[Tensor, "n 3 s s"]:
    """Blend each image with its grey version, as Pillow's ImageEnhance.Color does.

    Args:
        pixels: images.
        factor: strength of each image's colours: 0 is grey, 1 changes nothing.
    """
    colours = pixels.to(torch.float32)
    shades = grey(pixels)[:, None].to(torch.float32).expand_as(colours)
    return blend(shades, colours, array_to_device(factor, pixels.device)[:, None, None, None])


def turn_hue(pixels: UInt8[Tensor, "n 3 s s"], share: Float32[np.ndarray, "n"]) -> UInt8[Tensor, "n 3 s s"]:
    """Turn the hue as torchvision's adjust_hue does for Pillow images.

    Args:
        pixels: images.
        share: share of a full turn, -0.5 to 0.5, which is cut to whole steps of 1/255.
    """
    steps = (share.astype(np.float64) * 255).astype(np.int32)
    hue, saturation, value = _to_hsv(pixels)
    turned = (hue + array_to_device(steps, pixels.device)[:, None, None]) & 255
    return _to_rgb(turned, saturation, value)


def _divide(x: Tensor, divisor: float) -> Tensor:
    # On a GPU, torch divides by a number through its reciprocal, one bit less exact; by a tensor it divides.
    return x / torch.full((), divisor, dtype=x.dtype, device=x.device)


def _to_hsv(
    pixels: UInt8[Tensor, "n 3 s s"],
) -> tuple[Int32[Tensor, "n s s"], Int32[Tensor, "n s s"], Int32[Tensor, "n s s"]]:
    """Hue, saturation and value of each pixel, each in 0..255."""
    highest, lowest = pixels.amax(1).to(torch.float32), pixels.amin(1).to(torch.float32)
    spread = (highest - lowest).clamp_(min=1)  # 1 where grey: its hue and saturation come out as 0
    red, green, blue = pixels.to(torch.float32).unbind(1)
    from_red, from_green, from_blue = ((highest - part) / spread for part in (red, green, blue))
    sixths = torch.where(
        red == highest,
        from_blue - from_green,
        torch.where(
            green == highest,
            (2.0 + from_red.double() - from_blue.double()).float(),
            (4.0 + from_green.double() - from_red.double()).float(),
        ),
    )
    turns = torch.fmod(_divide(sixths.double(), 6.0) + 1.0, 1.0).float()
    saturation = (highest - lowest) / highest.clamp(min=1)
    hue = (turns.double() * 255.0).to(torch.int32)
    return hue, (saturation.double() * 255.0).to(torch.int32), highest.to(torch.int32)


def _to_rgb(
    hue: Int32[Tensor, "n s s"], saturation: Int32[Tensor, "n s s"], value: Int32[Tensor, "n s s"]
) -> UInt8[Tensor, "n 3 s s"]:
    """Pixels from hue, saturation and value, each in 0..255."""
    sixths = _divide(hue.double() * 6.0, 255.0)
    sector = sixths.floor()
    part = (sixths - sector).float()
    strength = _divide(saturation.double(), 255.0).float()
    height = value.double()

    def shade(loss: Tensor) -> Tensor:
        # Rounded half away from zero, as C does.
        return (height * (1.0 - loss.double()) + 0.5).floor().clamp_(0, 255)

    low = shade(strength)
    falling = shade(strength * part)
    rising = shade(strength.double() * (1.0 - part.double()))
    sector = sector.to(torch.int64) % 6
    # What each of the six sectors shows as red; green and blue follow two and four sectors behind.
    around = torch.stack([height, falling, low, low, rising, height])
    channels = [around.gather(0, ((sector + turn) % 6)[None])[0] for turn in (0, 4, 2)]
    return torch.stack(channels, 1).to(torch.uint8)


#: Kernels by the name of their operation.
KERNELS = {
    "COLOR": Kernels(pillow=timm_operations.color, batched=WholeImages(adjust_color)),
    "HUE": Kernels(pillow=torchvision_operations.adjust_hue, batched=WholeImages(turn_hue)),
}
