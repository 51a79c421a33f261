"""Small archives of the forms in which data sets are downloaded, with photographs in them."""

import io
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

from support.photographs import NAMES, photographs, to_image


@cache
def photograph(number: int, suffix: str = "JPEG", size: int = 48) -> bytes:
    """A photograph as a file, 48 x 64 pixels by default; another one for each number."""
    turned = to_image(photographs(size, len(NAMES))[number % len(NAMES)])
    image = turned.rotate(90 * (number // len(NAMES) % 4)).resize((size * 4 // 3, size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if suffix == "png" else "JPEG", quality=95)
    return buffer.getvalue()


def tar_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A plain tar of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(file: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A plain tar, or one that is packed with gzip where its name says so."""
    data = tar_bytes(files)
    if file.suffix == ".gz":
        import gzip

        data = gzip.compress(data)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def decoded(data: bytes) -> Image.Image:
    """The pixels of an image file."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """The files of a set of shards by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
