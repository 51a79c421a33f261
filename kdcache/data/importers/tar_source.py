"""Samples that lie in plain tar files, read there by position."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

from kdcache.data.importers.shard_import import require_image
from kdcache.data.shard_file import ShardFile
from kdcache.data.writer import NewSample
from kdcache.errors import DataError
from kdcache.io.failures import cannot_read
from kdcache.io.reading import open_regular, opened, read_part

_GZIP = b"\x1f\x8b"


class TarImage(NamedTuple):
    """An image in a tar: number of the tar, first byte and length there, name for messages, and what it becomes."""

    tar: int
    offset: int
    length: int
    name: str
    key: str
    extension: str
    label: int | None


class TarImages:
    """The images in some tars, as samples."""

    def __init__(self, tars: Sequence[str], images: Sequence[TarImage]) -> None:
        """Take the paths of the tars. Raises DataError where one cannot be reached."""
        self._tars, self._images = tars, images
        self._states = [state_of(tar) for tar in tars]

    def read(self, number: int) -> NewSample:
        image = self._images[number]
        tar = self._tars[image.tar]
        try:
            with opened(tar) as file:
                data = read_part(file, image.offset, image.length)
        except OSError as error:
            raise unreadable(tar, error) from error
        if len(data) < image.length:
            raise DataError(f"{tar} has become shorter during the import. Copy it again, and run the import again.")
        require_image(data, f"{image.name} in {tar}")
        return NewSample(image.key, image.extension, data, image.label)

    def stamp(self, number: int) -> str:
        image = self._images[number]
        return f"{image.key} {image.extension} {image.label} {image.offset} {image.length} {self._states[image.tar]}"


class Part(ShardFile):
    """A file within a tar, as a file of its own."""

    def __init__(self, whole: ShardFile, offset: int, length: int) -> None:
        self._whole, self._offset = whole, offset
        self.size = length

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer with bytes of the part alone."""
        left = max(0, self.size - offset)
        return self._whole.read_into(buffer[:left], self._offset + offset)


def read_archive(path: Path, wanted: Collection[str], limit: int) -> tuple[list[str], dict[str, bytes]]:
    """Return the base names of all members of a tar, packed with gzip or not, and the content of those wanted.

    limit: bytes of a member; larger ones are passed over.

    Raises DataError where it cannot be read or is damaged: the checksum of what gzip has packed is looked at.
    """
    names: list[str] = []
    found: dict[str, bytes] = {}
    try:
        with open_regular(path) as packed:
            is_packed = packed.read(2) == _GZIP
            packed.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=packed) if is_packed else packed)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    names.append(os.path.basename(member.name))
                    if names[-1] in wanted and member.isreg() and member.size <= limit:
                        content = tar.extractfile(member)
                        found[names[-1]] = content.read(limit) if content else b""
            while is_packed and stream.read(2**20):  # gzip compares the checksum at the end
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged, or no tar archive: {error}. Download it again.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    return names, found


def unreadable(path: str | os.PathLike[str], error: OSError) -> DataError:
    """The error for a source that cannot be read."""
    return DataError(
        cannot_read(os.fspath(path), error, "Check the path and its permissions, and run the import again.")
    )


def state_of(path: str | os.PathLike[str]) -> str:
    """Return a text that differs where a file has changed: its size and the time of its last change.

    Raises DataError where it cannot be reached.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    return f"{os.fspath(path)} {status.st_size} {status.st_mtime_ns}"
