"""What an image file says of itself in its header."""

from io import BufferedIOBase
from typing import IO, cast

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from kdcache.errors import KdcacheError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp")
"""Extensions, in lower case, of the components that are images: those torchvision's ImageFolder takes."""

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_ORIENTATION = 274


def image_size(stream: BufferedIOBase) -> tuple[int, int]:
    """Height and width of an image file in pixels, as stored: EXIF orientation is not applied, nothing is decoded.

    Raises ValueError, with the reason, when the header is not that of a readable image; what goes wrong in fetching
    it is no fault of the image, and passes as it is.
    """
    try:
        with Image.open(cast(IO[bytes], stream), formats=_FORMATS) as image:
            width, height = image.size
            turned = isinstance(image, TiffImageFile) and image.tag_v2.get(_ORIENTATION, 1) != 1
    except KdcacheError:
        raise
    except Exception as error:  # Pillow's readers raise whatever the damage makes them stumble on
        raise ValueError(_reason(error)) from error
    if height < 1 or width < 1:
        raise ValueError(f"the header says {width} x {height} pixels")
    if turned:
        raise ValueError("it is a TIFF that is stored turned, which decoders disagree about; save it upright")
    return height, width


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it has no header of a known image format"
    return f"{error}" or type(error).__name__
