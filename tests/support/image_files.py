"""Image files of every kind that data sets hold, whole and broken, made of a real photograph."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from support.images import encode, photograph, png_chunk, png_of_16_bit_rgb, png_of_rows

_NOISE = np.random.default_rng(3)
_ROTATED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
_ADOBE = b"\xff\xee\0\x0eAdobe\0"


def open_rgb(file: bytes) -> Image.Image:
    """As timm and torchvision load an image."""
    image = Image.open(io.BytesIO(file))
    image.info.pop("transparency", None)  # Pillow would warn of a palette's
    return image.convert("RGB")


def _formats() -> dict[str, tuple[bytes, Image.Image]]:
    """File and the RGB image that it holds, as Pillow decodes it by itself (16 bits of grey apart: their high byte)."""
    photo = photograph()
    grey = photo.convert("L")
    palette = photo.quantize(200)
    alpha = photo.copy()
    alpha.putalpha(grey.rotate(90))
    deep = _NOISE.integers(0, 1 << 16, (photo.height, photo.width, 3), dtype=np.uint16)
    jpeg, png, cmyk = encode(photo, "JPEG"), encode(photo, "PNG"), encode(photo.convert("CMYK"), "JPEG")
    files = {
        "jpeg": jpeg,
        "progressive jpeg": encode(photo, "JPEG", progressive=True),
        "jpeg with all chroma": encode(photo, "JPEG", subsampling=0),
        "jpeg with half the chroma": encode(photo, "JPEG", subsampling=1),
        "jpeg with restart markers": encode(photo, "JPEG", restart_marker_rows=1),
        "jpeg with junk behind its end": jpeg + b"\0" * 9 + b"junk",
        "jpeg damaged in its scan": _without_some(jpeg, len(jpeg) // 2),
        "rgb jpeg": encode(photo, "JPEG", keep_rgb=True),
        "grey jpeg": encode(grey, "JPEG"),
        "arithmetic jpeg": (Path(__file__).parent / "arithmetic.jpg").read_bytes(),
        "cmyk jpeg, inverted by Adobe": cmyk,
        "cmyk jpeg, of nobody": _without_adobe(cmyk),
        "ycck jpeg": _with_adobe_transform(cmyk, 2),
        "rotated jpeg": encode(photo, "JPEG", exif=b"Exif\0\0" + _ROTATED),
        "png": png,
        "rotated png": _behind_header(png, png_chunk(b"eXIf", _ROTATED)),
        "png with gamma": _behind_header(png, png_chunk(b"gAMA", struct.pack(">I", 30000))),
        "png with a transparent colour": _behind_header(png, png_chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0))),
        "png with junk behind its end": png + b"junk",
        "png with alpha": encode(alpha, "PNG"),
        "grey png": encode(grey, "PNG"),
        "grey png with alpha": encode(alpha.convert("LA"), "PNG"),
        "palette png": encode(palette, "PNG"),
        "palette png with transparency": encode(palette, "PNG", transparency=bytes(range(200))),
        "palette png of 2 bits": encode(photo.quantize(4), "PNG", bits=2),
        "png of 1 bit": encode(photo.convert("1"), "PNG"),
        "grey png of 16 bits with alpha": png_of_rows(64, 48, 16, 4, zlib.compress(_noise_rows(48, 64 * 4))),
        "png of 16 bits with alpha": png_of_rows(64, 48, 16, 6, zlib.compress(_noise_rows(48, 64 * 8))),
        "webp": encode(photo, "WEBP"),
        "webp with alpha": encode(alpha, "WEBP", lossless=True),
        "gif": encode(palette, "GIF"),
        "bmp": encode(photo, "BMP"),
        "tiff": encode(photo, "TIFF"),
        "ppm": encode(photo, "PPM"),
    }
    pillows = {name: (file, open_rgb(file)) for name, file in files.items()}
    high = Image.fromarray((deep >> 8).astype(np.uint8))
    high_grey = Image.fromarray((deep[..., 0] >> 8).astype(np.uint8)).convert("RGB")
    return pillows | {
        "png of 16 bits": (png_of_16_bit_rgb(deep), high),
        "grey png of 16 bits": (encode(Image.fromarray(deep[..., 0]), "PNG"), high_grey),
        "grey tiff of 16 bits": (encode(Image.fromarray(deep[..., 0]), "TIFF"), high_grey),
    }


def _without_some(jpeg: bytes, at: int) -> bytes:
    """Forty bytes of its scan are overwritten: what follows is shifted and wrong, but no marker is touched."""
    return jpeg[:at] + b"\x55" * 40 + jpeg[at + 40 :]


def _without_adobe(jpeg: bytes) -> bytes:
    at = jpeg.index(_ADOBE)
    return jpeg[:at] + jpeg[at + 16 :]


def _with_adobe_transform(jpeg: bytes, transform: int) -> bytes:
    at = jpeg.index(_ADOBE) + 15
    return jpeg[:at] + bytes([transform]) + jpeg[at + 1 :]


def _behind_header(png: bytes, chunk: bytes) -> bytes:
    header = 33  # the signature and the first chunk
    return png[:header] + chunk + png[header:]


def _noise_rows(height: int, row_bytes: int) -> bytes:
    """Rows of random bytes, each behind the filter "none"."""
    return b"".join(b"\0" + _NOISE.bytes(row_bytes) for _ in range(height))


def pixels_alone() -> dict[str, bytes]:
    """Images of a single pixel."""
    pixel = photograph().crop((300, 200, 301, 201))
    return {
        "jpeg": encode(pixel, "JPEG"),
        "grey jpeg": encode(pixel.convert("L"), "JPEG"),
        "cmyk jpeg": encode(pixel.convert("CMYK"), "JPEG"),
        "png": encode(pixel, "PNG"),
        "grey png": encode(pixel.convert("L"), "PNG"),
        "palette png": encode(pixel.quantize(1), "PNG"),
        "webp": encode(pixel, "WEBP"),
        "bmp": encode(pixel, "BMP"),
    }


def _broken() -> dict[str, tuple[bytes, str]]:
    """File and what is said of it."""
    jpeg = encode(photograph(), "JPEG")
    thumbnail = encode(photograph().resize((8, 8)), "JPEG")
    exif = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    png = encode(photograph(), "PNG")
    body = len(png) // 2
    unknown_filters = zlib.compress(bytes([9]) * 61 * 20)
    damaged = r"Pillow cannot decode its data \(.+\)"
    stops = "its JPEG data stop before the end marker"
    return {
        "empty": (b"", "it has no bytes"),
        "garbage": (b"this is no image" * 40, r"it has no header of a known image format, but begins with b'.*'"),
        "zeros": (bytes(1000), r"it has no header of a known image format, but begins with b'.*'"),
        "jpeg cut in half": (jpeg[: len(jpeg) // 2], stops),
        "jpeg without its last byte": (jpeg[:-1], stops),
        "jpeg cut behind a thumbnail": (jpeg[:2] + exif + jpeg[2 : len(jpeg) // 2], stops),
        "jpeg cut in its header": (jpeg[:100], stops),
        "jpeg without a scan": (jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9", damaged),
        "jpeg with bad tables": (_bad_tables(jpeg), damaged),
        "png cut in half": (png[:body], "its PNG data stop before the end chunk"),
        "png with a damaged body": (
            png[:body] + bytes([png[body] ^ 1]) + png[body + 1 :],
            r"the checksum of a PNG chunk of it \(IDAT, at byte \d+\) does not match",
        ),
        "png with unknown filters": (png_of_rows(20, 20, 8, 2, unknown_filters), damaged),
    }


def _bad_tables(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:at] + b"\xff" * 16 + jpeg[at + 16 :]


FORMATS = _formats()
BROKEN = _broken()
