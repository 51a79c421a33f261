"""Real photographs, and files of every kind made of them."""

import io
import struct
import zlib
from functools import cache

import numpy as np
import skimage.data
from PIL import Image

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


@cache
def photograph(name: str = "astronaut") -> Image.Image:
    """One of scikit-image's photographs, about 400 x 600 pixels, RGB."""
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_rows(width: int, height: int, depth: int, colour_type: int, body: bytes) -> bytes:
    """A PNG with exactly these compressed bytes as its body: for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def png_of_16_bit_rgb(values: np.ndarray) -> bytes:
    """uint16 [h, w, 3] as a PNG of 16 bits a channel."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_of_rows(values.shape[1], values.shape[0], 16, 2, zlib.compress(rows))


def small_photographs(count: int, size: int = 28) -> list[bytes]:
    """Grey PNGs of size x size pixels, each another piece of a photograph."""
    grey = photograph().convert("L")
    places = np.random.default_rng(7).integers(0, 400, (count, 2)).tolist()
    pieces = (grey.crop((left, top, left + 100, top + 100)) for left, top in places)
    return [encode(piece.resize((size, size)), "PNG") for piece in pieces]


def png_that_dali_refuses(width: int, height: int) -> bytes:
    """Noise whose compressed data lack their own checksum: Pillow reads the rows and does not ask for it."""
    noise = np.random.default_rng(2).bytes(3 * width * height)
    rows = b"".join(b"\0" + noise[at : at + 3 * width] for at in range(0, len(noise), 3 * width))
    return png_of_rows(width, height, 8, 2, zlib.compress(rows)[:-4])
