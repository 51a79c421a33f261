"""One shard, read by position, on a disk or in an object store."""

import os
from abc import ABC, abstractmethod
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedIOBase, BufferedReader, RawIOBase
from typing import Any


class ShardFile(ABC):
    """The bytes of a file that does not change meanwhile; `size` is their number. It has no position of its own."""

    size: int

    @abstractmethod
    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer with the bytes from `offset` on; return their number, smaller only at the end."""

    def read(self, length: int, offset: int) -> bytes:
        """Return the `length` bytes from `offset` on, fewer at the end."""
        buffer = bytearray(max(0, min(length, self.size - offset)))
        return bytes(memoryview(buffer)[: self.read_into(memoryview(buffer), offset)])

    def stream(self) -> BufferedIOBase:
        """Open the whole shard as a file, which the caller closes."""
        return BufferedReader(FileSlice(self, 0, self.size))


class LocalFile(ShardFile):
    """A file of this machine, open as `descriptor`, which stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read with one system call."""
        return os.preadv(self._descriptor, [buffer], offset)

    def read(self, length: int, offset: int) -> bytes:
        """Read with one system call."""
        return os.pread(self._descriptor, length, offset)

    def stream(self) -> BufferedIOBase:
        """Open with Python's own buffering, which is faster than single reads."""
        return os.fdopen(os.dup(self._descriptor), "rb")


class FileSlice(RawIOBase):
    """The bytes `offset` to `offset + length` of a shard, as a file of their own.

    Reads by position, so that any number of slices share one shard.
    """

    def __init__(self, file: ShardFile, offset: int, length: int) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = SEEK_SET) -> int:
        base = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._length}[whence]
        self._position = max(0, base + position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._length - self._position)
        count = self._file.read_into(memoryview(buffer)[:left], self._offset + self._position)
        self._position += count
        return count
