"""The geometry of timm's evaluation transform, with Pillow: resize first, cut then."""

import math

from PIL import Image

#: Longer images than this many times their shorter side are resized in the part alone that is cut out: timm resizes
#: all of them, which takes gigabytes for an image of one row and 65,535 columns.
_LONGEST = 16


def resize_and_cut(picture: Image.Image, size: int, crop_pct: float, cubic: bool) -> Image.Image:
    """`picture` as `timm.data.create_transform(size, is_training=False, crop_pct=crop_pct)` shows it, pixel by pixel.

    Its shorter side is resized to floor(size / crop_pct) pixels, the longer one in proportion, rounded down; of that
    the centred square of `size` pixels a side is cut out, half a pixel rounded to the even one.

    Args:
        size: pixels a side of the result.
        crop_pct: over 0 to 1.
        cubic: with a bicubic filter, else a bilinear one; both reach over as many pixels as shrinking asks for.
    """
    filter = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    short = math.floor(size / crop_pct)
    if picture.width <= picture.height:
        width, height = short, int(short * picture.height / picture.width)
    else:
        width, height = int(short * picture.width / picture.height), short
    left, top = round((width - size) / 2), round((height - size) / 2)
    if max(width, height) <= _LONGEST * short:
        return picture.resize((width, height), filter).crop((left, top, left + size, top + size))
    across, down = picture.width / width, picture.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return picture.resize((size, size), filter, box=box)
