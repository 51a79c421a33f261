"""Reading of regular files only, up to a limit of bytes, whatever size a file reports.

A FIFO would block for ever, a device may never end, and a size that a file system reports need not be true. Links are
followed, unless a caller says otherwise: where shards, weights or whole caches are kept in stores of blobs, as the
Hugging Face hub, DVC and git-annex keep them, every file is a link to one.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from kdcache.io.failures import LinkError, SpecialFileError, TooLargeError

#: The most bytes of a file of text that people or kdcache write: settings, descriptions, tables of a run's numbers.
TEXT_LIMIT = 64 * 2**20

#: Bytes per read of a file that has more bytes than its reported size.
_STEP = 2**20

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_descriptor(path: Path | str, *, folder: int | None = None, follow: bool = True) -> int:
    """Open a regular file for reading, without blocking; return its descriptor, which the caller closes.

    Args:
        folder: descriptor of the folder that `path` is relative to; None for the working folder.
        follow: whether `path` may be a link to a regular file.

    Raises:
        SpecialFileError: it is anything else: a folder, a FIFO, a device, a socket.
        LinkError: it is a link, and `follow` is false.
        OSError: as `os.open` does.
    """
    # The status is read before opening: opening a device may have an effect, such as rewinding a tape.
    _require_regular(os.stat(path, dir_fd=folder, follow_symlinks=follow).st_mode, path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    file = os.open(path, flags, dir_fd=folder)
    try:
        _require_regular(os.fstat(file).st_mode, path)
    except OSError:
        os.close(file)
        raise
    return file


def open_regular(path: Path | str, *, folder: int | None = None, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading, as `open(path, "rb")` does; arguments and errors as of `open_descriptor`."""
    return os.fdopen(open_descriptor(path, folder=folder, follow=follow), "rb")


def require_regular(path: Path | str) -> None:
    """Raise as `open_descriptor` does, for libraries that open files themselves and by their name."""
    _require_regular(os.stat(path).st_mode, path)


def read_bytes(path: Path | str, limit: int = TEXT_LIMIT, *, folder: int | None = None, follow: bool = True) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises:
        TooLargeError: there are more, whatever its size claims.
        SpecialFileError, LinkError, OSError: as `open_descriptor` does.
    """
    with opened(path, folder=folder, follow=follow) as file:
        return read_rest(file, limit, path)


def read_text(path: Path | str, limit: int = TEXT_LIMIT) -> str:
    """Return the UTF-8 text of a regular file of at most `limit` bytes; raises as `read_bytes`, or UnicodeError."""
    return read_bytes(path, limit).decode("utf-8")


@contextmanager
def opened(path: Path | str, *, folder: int | None = None, follow: bool = True) -> Iterator[int]:
    """Yield the descriptor of a regular file within the block; arguments and errors as of `open_descriptor`."""
    file = open_descriptor(path, folder=folder, follow=follow)
    try:
        yield file
    finally:
        os.close(file)


def read_rest(file: int, limit: int, path: Path | str) -> bytes:
    """Return the bytes of an open file from its position on. Raises TooLargeError with `path` for more than `limit`."""
    size = os.fstat(file).st_size
    if size > limit:
        raise TooLargeError(path, limit)
    parts: list[bytes] = []
    left, step = limit + 1, size + 1  # one byte more, which shows that the file exceeds the limit
    while left and (part := os.read(file, min(left, step))):
        parts.append(part)
        left, step = left - len(part), _STEP
    if not left:
        raise TooLargeError(path, limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_part(file: int, start: int, length: int) -> bytes:
    """Return `length` bytes of an open file from `start` on, or fewer if it ends before."""
    length = max(0, min(length, os.fstat(file).st_size - start))  # nothing is allocated for what is not there
    data = os.pread(file, length, start)
    while len(data) < length and (more := os.pread(file, length - len(data), start + len(data))):
        data += more
    return data


def _require_regular(mode: int, path: Path | str) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISLNK(mode):
        raise LinkError(path)
    raise SpecialFileError(path, next((kind for test, kind in _KINDS if test(mode)), "a special file"))
