"""What an operation's kernels are: one for Pillow on the CPU, and one of four kinds for batches on a device."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class FixedTable:
    """A kernel that replaces each value by an entry of a table which the argument alone decides.

    Attributes:
        compute: arguments -> tables. It runs on the host, which then sends 256 bytes for each image.
    """

    compute: Callable[[Float32[np.ndarray, "n"]], UInt8[np.ndarray, "n 256"]]


@dataclass(frozen=True)
class MeasuredTable:
    """A kernel that replaces each value by an entry of a table which depends on the image.

    Attributes:
        compute: pixels and arguments -> tables, for each channel or for all. It runs where the pixels are.
    """

    compute: Callable[[UInt8[Tensor, "n 3 s s"], Float32[Tensor, "n"]], UInt8[Tensor, "n #channels 256"]]


@dataclass(frozen=True)
class AffineWarp:
    """A kernel that moves pixels: `warp` and `warp_nearest` interpolate, and fill what is uncovered.

    Attributes:
        compute: arguments and pixels a side -> a..f of each image: the pixel at (x, y) shows what was at
            (a x + b y + c, d x + e y + f). It runs on the host.
    """

    compute: Callable[[Float64[np.ndarray, "n"], int], Float64[np.ndarray, "n 6"]]


@dataclass(frozen=True)
class WholeImages:
    """A kernel of any other kind.

    Attributes:
        compute: pixels and arguments -> new pixels. It runs where the pixels are.
    """

    compute: Callable[[UInt8[Tensor, "n 3 s s"], Float32[np.ndarray, "n"]], UInt8[Tensor, "n 3 s s"]]


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The two kernels of an operation, which give the same pixels, bit for bit on the CPU.

    Attributes:
        pillow: RGB image and argument -> new RGB image. The kernel of a warp takes the keywords `resample` and
            `fillcolor` as well, as timm's functions do.
        batched: kernel for many images at once, in torch, each image with its own argument.
    """

    pillow: Callable[..., Image.Image]
    batched: FixedTable | MeasuredTable | AffineWarp | WholeImages
