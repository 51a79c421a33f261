"""Encoded images: their format, whether they are whole, and how every renderer makes RGB of them.

The checks read the headers of a JPEG and the checksums of a PNG. Without decoding, they find the images that decoders
treat differently or do not survive, above all those whose data stop early.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Int32
from PIL import Image

from kdcache.data.advice import about_bad
from kdcache.data.images import MAX_PIXELS, PNG_SIGNATURE, open_image, png_fault, to_rgb
from kdcache.errors import BrokenImageError, DataError

Kind = Literal["jpeg", "png", "other"]

#: Markers of a JPEG: its end, the start of a scan, the starts of frames, those of frames that all decoders know, and
#: those that no length follows.
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PLAIN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


class UndecodableError(Exception):
    """Bytes are no whole image. The message is the reason, a clause; `broken_image` adds the image's name."""


#: Stands for the shards in an advised command if their name is not known.
DATA = "DATA"


def broken_image(name: str, reason: object, data: str = DATA, otherwise: str = "") -> BrokenImageError:
    """Return the error for an image that cannot be decoded.

    Args:
        name: name of the image.
        reason: clause that tells why, such as "it has no bytes".
        data: shards of the image, as a command takes them.
        otherwise: clause with another remedy, which begins with a comma.
    """
    return BrokenImageError(f"{name} cannot be decoded: {reason}. {about_bad(data)}; or repair that sample{otherwise}.")


def kind_of(encoded: bytes) -> Kind:
    """Return the format of an image by its first bytes; names and extensions are not trusted."""
    if encoded.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "png" if encoded.startswith(PNG_SIGNATURE) else "other"


def check_whole(encoded: bytes) -> None:
    """Check that an image is whole, without decoding it.

    Bytes behind the end of the image are allowed, because many files in use have them.

    Raises:
        UndecodableError: there are no bytes, a JPEG or a PNG stops early, or a checksum of a PNG is wrong.
    """
    if not encoded:
        raise UndecodableError("it has no bytes")
    match kind_of(encoded):
        case "jpeg" if not encoded.endswith(_JPEG_END) and not _jpeg_end_follows_scan(encoded):
            raise UndecodableError("its JPEG data stop before the end marker")
        case "png" if (fault := png_fault(encoded)) is not None:
            raise UndecodableError(fault)


def _jpeg_headers(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, the start and the end of each segment of a JPEG, up to the header of its first scan."""
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        else:
            start, at = at, at + 2 + int.from_bytes(encoded[at + 2 : at + 4])
            yield marker, start, at
            if marker == _JPEG_SCAN:
                return


def _jpeg_end_follows_scan(encoded: bytes) -> bool:
    """Return whether an end marker follows the first scan; an earlier one belongs to an embedded thumbnail."""
    for marker, _, end in _jpeg_headers(encoded):
        if marker == _JPEG_SCAN:
            # Entropy-coded data never hold 0xFF followed by anything but 0 or a restart marker.
            return encoded.find(_JPEG_END, end) >= 0
    return False


def _is_plain_jpeg(encoded: bytes) -> bool:
    """Return whether the frame of a JPEG is baseline or progressive, of 8 bits, and of one or three channels.

    Decoders disagree about which JPEGs of four channels are inverted, and not all of them know arithmetic coding.
    """
    for marker, start, end in _jpeg_headers(encoded):
        if marker in _JPEG_FRAMES and end - start >= 10 and end <= len(encoded):
            return marker in _JPEG_PLAIN_FRAMES and encoded[start + 4] == 8 and encoded[start + 9] in (1, 3)
    return False


def is_plain(encoded: bytes) -> bool:
    """Return whether all decoders make the same 8-bit RGB: of a common JPEG, or a PNG of up to 8 bits a channel."""
    match kind_of(encoded):
        case "jpeg":
            return _is_plain_jpeg(encoded)
        case "png":
            # Its first chunk is its header, whose ninth data byte is the bit depth.
            return len(encoded) > 24 and encoded[24] <= 8
    return False


def decode_rgb(encoded: bytes) -> Image.Image:
    """Decode an image to 8-bit RGB, as `to_rgb` makes it.

    Raises:
        UndecodableError: the image is not whole, or Pillow cannot decode it.
    """
    check_whole(encoded)
    try:
        opened = open_image(io.BytesIO(encoded), every_format=True)
    except ValueError as error:
        raise UndecodableError(str(error)) from error
    try:
        with opened as image:
            return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
        raise UndecodableError(f"Pillow cannot decode its data ({error})") from error


def faults(encoded: Iterable[bytes]) -> Iterator[str | None]:
    """For each image the reason why Pillow cannot decode it, a clause such as "it has no bytes"; None if it can.

    Most JPEGs that are damaged within a scan pass, because decoders accept them without a word.
    """
    for data in encoded:
        try:
            decode_rgb(data)
        except UndecodableError as error:
            yield str(error)
        else:
            yield None


def load_part(encoded: bytes, box: Int32[np.ndarray, "4"], name: Callable[[], str], data: str = DATA) -> Image.Image:
    """Decode an image and cut out a part, as 8-bit RGB.

    Args:
        encoded: image file.
        box: part of the image, in pixels: top, left, height, width.
        name: function that gives the image's name for an error.
        data: shards of the image, as a command takes them.

    Raises:
        BrokenImageError: the image cannot be decoded.
        DataError: the box reaches over the edge of the image.
    """
    try:
        image = decode_rgb(encoded)
    except UndecodableError as error:
        raise broken_image(name(), error, data) from error
    top, left, height, width = (int(edge) for edge in box)
    if top + height > image.height or left + width > image.width:
        raise DataError(
            f"{name()} is {image.height} x {image.width} pixels, but rows {top} to {top + height} "
            f"and columns {left} to {left + width} of it were asked for. "
            f"The shards are not those that were indexed; run `kdcache index {data}` again."
        )
    if (height, width) == (image.height, image.width):
        return image
    if height * width > MAX_PIXELS // 2:  # Pillow's crop would warn, as its decoders do
        return Image.fromarray(np.asarray(image)[top : top + height, left : left + width])
    return image.crop((left, top, left + width, top + height))
