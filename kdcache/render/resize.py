"""The antialiased resize of pictures in memory: torch's kernel for 8-bit values.

It is Pillow's algorithm with Pillow's filters in the processor's vector instructions: a third of Pillow's time, a
quarter of that of DALI's operator on the CPU, and nearer to Pillow's pixels than the latter.
"""

import numpy as np
import torch
from jaxtyping import UInt8


def resize_into(out: UInt8[np.ndarray, "3 s s"], picture: UInt8[np.ndarray, "h w 3"], cubic: bool, flip: bool) -> None:
    """Write `picture`, resized and, if `flip`, mirrored left to right, to `out`.

    cubic: with a bicubic filter, else a bilinear one; both reach over as many pixels as shrinking asks for.
    """
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None]
    mode = "bicubic" if cubic else "bilinear"
    resized = torch.nn.functional.interpolate(planes, size=out.shape[1:], mode=mode, antialias=True)[0].numpy()
    out[:] = resized[:, :, ::-1] if flip else resized
