"""What the system refuses, and what kdcache refuses to open, in sentences that every room can use.

Everything in `kdcache.io` raises OSError; the rooms turn it into errors of their own with `cannot_write` and
`cannot_read`.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

#: A disk, or a user's share of it, that takes no more.
#: What helps when something cannot be written, by error number.
_WRITING: Mapping[int, str] = MappingProxyType(
    {
        errno.ENOSPC: "make room, then run the same command again.",
        errno.EDQUOT: "make room or have the quota raised, then run the same command again.",
        errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`) or use a file system that allows larger "
        "ones, then run the same command again.",
        errno.EIO: "check the disk or its network mount, then run the same command again.",
        errno.ESTALE: "mount the network folder again, then run the same command again.",
        errno.EMFILE: "raise the limit on open files (`ulimit -n`), then run the same command again.",
        errno.ENFILE: "close other programs, as the whole system has too many open files, then run the same command "
        "again.",
        errno.EACCES: "use a folder that you can write to, or have its permissions changed.",
        errno.EPERM: "use a folder that you can write to, or have its permissions changed.",
        errno.EROFS: "use a folder that you can write to, or have its permissions changed.",
        errno.ENOENT: "check the path, of which a part is missing.",
        errno.ENOTDIR: "check the path: it, or a part of it, is a file.",
        errno.EISDIR: "check the path, which is a folder.",
        errno.ENAMETOOLONG: "use a shorter path.",
    }
)
#: Permanent errors of a place: nothing was written.
_ELSEWHERE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
_LATER = "run the same command again when the cause is gone."

#: How Rust's libraries, such as safetensors, quote an error of the system.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
#: How Python's libraries quote one in their own.
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class RefusedError(OSError):
    """A refusal of kdcache to open, write or remove something; `strerror` and `remedy` are clauses."""

    def __init__(self, number: int, cause: str, path: Path | str, remedy: str) -> None:
        super().__init__(number, cause, str(path))
        self.remedy = remedy

    def __str__(self) -> str:
        return self.strerror or ""


class LinkError(RefusedError):
    """A link where bytes should be written or removed: a symbolic one, or a file with several names."""

    def __init__(self, path: Path | str, kind: str = "a symbolic link") -> None:
        super().__init__(
            errno.ELOOP,
            f"{path} is {kind}, which kdcache does not follow here, as it may lead to foreign files",
            path,
            "put a folder or a file in the link's place, or mount the other disk there; only the folder that a command "
            "is given may itself be a link.",
        )


class SpecialFileError(RefusedError):
    """A device, a FIFO, a socket or a folder where a regular file should be."""

    def __init__(self, path: Path | str, kind: str) -> None:
        number = errno.EISDIR if kind == "a folder" else errno.EINVAL
        super().__init__(number, f"it is {kind} and not a regular file", path, "put the file there, or remove it.")


class TooLargeError(RefusedError):
    """A file that has more bytes than anything of its kind."""

    def __init__(self, path: Path | str, limit: int) -> None:
        super().__init__(
            errno.EFBIG,
            f"it has more than {_readable(limit)}, the most that such a file may have",
            path,
            "restore it, or remove it.",
        )


def cause(error: OSError) -> str:
    """Return the cause as a clause without a full stop."""
    return (error.strerror or str(error) or type(error).__name__).rstrip(".")


def is_of_writing(error: OSError) -> bool:
    """Return whether an error is one that `cannot_write` has a remedy for, and not one of a network or a program."""
    return error.errno in _WRITING


def passing_remedy(error: OSError) -> str | None:
    """Return the remedy for a temporary error, such as a full disk; None if only another place helps."""
    return None if error.errno in _ELSEWHERE else _WRITING.get(error.errno or 0)


def cannot_write(path: Path | str, error: OSError, kept: str) -> str:
    """Return the message that something cannot be written: cause, consequence, remedy.

    kept: the consequence as a clause, such as "Nothing that is recorded is lost".
    """
    if isinstance(error, RefusedError):
        remedy = error.remedy
    elif error.errno in _ELSEWHERE:
        remedy, kept = _WRITING[error.errno], ""
    else:
        remedy = passing_remedy(error) or _LATER
    consequence = f"{kept}: {remedy}" if kept else remedy[:1].upper() + remedy[1:]
    return f"Cannot write {path}: {cause(error)}. {consequence}"


def cannot_read(path: Path | str, error: OSError, remedy: str) -> str:
    """Return the message that something cannot be read; `remedy` is a sentence for errors without one."""
    if isinstance(error, RefusedError):
        remedy = error.remedy[:1].upper() + error.remedy[1:]
    return f"Cannot read {path}: {cause(error)}. {remedy}"


def system_error(error: BaseException) -> OSError | None:
    """Return the system's error that a library reports in an exception of its own; None if there is none.

    safetensors, for one, turns a full disk into a SafetensorError whose text ends with "(os error 28)".
    """
    for one in _chain(error):
        if isinstance(one, OSError):
            return one
        found = _OS_ERROR.search(str(one)) or _ERRNO.search(str(one))
        if found is not None:
            return OSError(int(found[1]), os.strerror(int(found[1])))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and the causes that it was raised from."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _readable(size: int) -> str:
    return f"{size >> 20:,} MiB" if size >= 2**20 else f"{size >> 10:,} KiB" if size >= 2**10 else f"{size:,} bytes"
