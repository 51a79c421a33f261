"""timm's evaluation transform with Pillow: it resizes first and crops then."""

import math

from PIL import Image

#: Largest ratio of an image's sides for which the whole image is resized. Of a longer image only the part that is cut
#: out is resized: timm resizes all of it, which takes gigabytes for an image of one row and 65,535 columns.
_MAX_ASPECT = 16


def resize_and_cut(image: Image.Image, size: int, crop_pct: float, cubic: bool) -> Image.Image:
    """Transform an image as `timm.data.create_transform(size, is_training=False, crop_pct=crop_pct)`, pixel by pixel.

    The shorter side is resized to floor(size / crop_pct) pixels and the longer one in proportion, rounded down. Then
    the central square of `size` pixels a side is cut out; half a pixel is rounded to the even number.

    Args:
        image: RGB image.
        size: pixels a side of the result.
        crop_pct: share of the resized shorter side that is cut out, over 0 to 1.
        cubic: whether the antialiased filter is bicubic; otherwise it is bilinear.
    """
    filter = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    short = math.floor(size / crop_pct)
    if image.width <= image.height:
        width, height = short, int(short * image.height / image.width)
    else:
        width, height = int(short * image.width / image.height), short
    left, top = round((width - size) / 2), round((height - size) / 2)
    if max(width, height) <= _MAX_ASPECT * short:
        return image.resize((width, height), filter).crop((left, top, left + size, top + size))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), filter, box=box)
