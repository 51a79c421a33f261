"""The headers of image files."""

import struct
import zlib
from contextlib import suppress
from io import BufferedIOBase, BytesIO
from typing import IO, cast

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from kdcache.errors import KdcacheError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp")
"""Extensions of images, in lower case: those of torchvision's ImageFolder."""

MAX_PIXELS = 178_956_970
"""Limit of an image's pixels, such as 13,377 x 13,377: Pillow's default, because a small file may decode to an image
that fills the memory. From half of it on Pillow warns, but without the name of the image."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PLUGINS = (BmpImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin)
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "PPM": "ppm", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_PREFIX = 16  # bytes by which Pillow's plugins recognise formats
_ORIENTATION = 274


def open_image(stream: BufferedIOBase, *, every_format: bool = False) -> ImageFile:
    """Open an image file of a format in `IMAGE_EXTENSIONS`; its header has been read, and its pixels have not.

    every_format: take every other format that Pillow knows as well.

    Raises ValueError, with the reason, when the header is not that of a readable image or promises more pixels than
    MAX_PIXELS; what goes wrong in fetching it is no fault of the image, and passes as it is.
    """
    prefix = stream.read(_PREFIX)
    if not prefix:
        raise ValueError("it has no bytes")
    # As `Image.open` does, which would hide what is wrong with a damaged header, and warn of large images by itself.
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(prefix) is not True:
            continue
        stream.seek(0)
        try:
            image = factory(cast(IO[bytes], stream), "")
        except KdcacheError:
            raise
        except Exception as error:  # Pillow's readers raise whatever the damage makes them stumble on
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system: the disk fails, and the image may be sound
            raise ValueError(_damage(name, stream, error)) from error
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"it has {width:,} x {height:,} = {width * height:,} pixels, and {MAX_PIXELS:,} are the most that is "
                "decoded; make it smaller"
            )
        return image
    if every_format:
        stream.seek(0)
        with suppress(UnidentifiedImageError):
            return Image.open(cast(IO[bytes], stream))
    raise ValueError(f"it has no header of a known image format, but begins with {prefix!r}")


def image_size(stream: BufferedIOBase) -> tuple[int, int]:
    """Return height and width of an image file in pixels, as stored: without EXIF orientation, and without decoding.

    Raises ValueError as `open_image` does, and for a TIFF that is stored turned.
    """
    with open_image(stream) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_ORIENTATION, 1) != 1:
            raise ValueError("it is a TIFF that is stored turned, which decoders disagree about; save it upright")
    return height, width


def image_extension(encoded: bytes) -> str:
    """Return the extension, one of `IMAGE_EXTENSIONS`, for the format of an image file. Raises as `open_image`."""
    with open_image(BytesIO(encoded)) as image:
        return _EXTENSIONS[str(image.format)]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB, as timm and torchvision load it: without rotation and transparency.

    Channels of 16 bits keep their high byte; Pillow by itself would clip grey ones to white.
    """
    # Pillow would warn of a palette's transparency, which an RGB image does not keep.
    image.info.pop("transparency", None)
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).clip(0, 0xFFFF)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def png_fault(encoded: bytes) -> str | None:
    """Return what is wrong with the chunks of a PNG file, as a clause: a wrong checksum, or no end; None if nothing is.

    Bytes behind the last chunk are allowed: many files in use have them.
    """
    at = len(PNG_SIGNATURE)
    view = memoryview(encoded)
    while at + 12 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, at)
        name = encoded[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(encoded):
            break
        (stored,) = struct.unpack_from(">I", encoded, end)
        if zlib.crc32(view[at + 4 : end]) != stored:
            called = name.decode("ascii", "backslashreplace")
            return f"the checksum of a PNG chunk of it ({called}, at byte {at}) does not match"
        if name == b"IEND":
            return None
        at = end + 4
    return "its PNG data stop before the end chunk"


def _damage(name: str, stream: BufferedIOBase, error: Exception) -> str:
    if name == "PNG":
        stream.seek(0)
        if (fault := png_fault(stream.read())) is not None:
            return fault
    return f"its {name} header is damaged or stops early ({str(error) or type(error).__name__})"
