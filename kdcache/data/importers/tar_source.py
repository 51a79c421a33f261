"""Samples that lie in plain tar files, read there by position."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from kdcache.data.importers.shard_import import require_image
from kdcache.data.shard_file import ShardFile
from kdcache.data.writer import NewSample
from kdcache.errors import DataError
from kdcache.io.failures import cannot_read
from kdcache.io.reading import opened, read_part


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


def unreadable(path: str | os.PathLike[str], error: OSError) -> DataError:
    """Return the error for a source that cannot be read."""
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
