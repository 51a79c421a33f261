"""What an image file says of itself in its header."""

import os
from io import BufferedIOBase, RawIOBase
from typing import IO, Any, cast

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp")
"""Extensions, in lower case, of the components that are images: those torchvision's ImageFolder takes."""

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_ORIENTATION = 274


def image_size(stream: BufferedIOBase) -> tuple[int, int]:
    """Height and width of an image file in pixels, as stored: EXIF orientation is not applied, nothing is decoded.

    Raises ValueError, with the reason, when the header is not that of a readable image.
    """
    try:
        with Image.open(cast(IO[bytes], stream), formats=_FORMATS) as image:
            width, height = image.size
            turned = isinstance(image, TiffImageFile) and image.tag_v2.get(_ORIENTATION, 1) != 1
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


class FileSlice(RawIOBase):
    """The bytes `offset` to `offset + length` of an open file, as a file of their own.

    Reads by position, so that any number of slices share one descriptor.
    """

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._length - self._position)
        count = os.preadv(self._descriptor, [memoryview(buffer)[:left]], self._offset + self._position)
        self._position += count
        return count
