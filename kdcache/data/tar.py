"""The members of a tar file, strictly: what a lenient reader passes over in silence is an error here.

Python's tarfile ends quietly at a damaged or half-written header as if the archive ended there, and so do most readers;
of a shard that was cut short, the last images would be missing and nobody would know.
"""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from kdcache.data.shard_file import ShardFile
from kdcache.errors import DataError

BLOCK = tarfile.BLOCKSIZE
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Member(NamedTuple):
    """A regular file in a tar: its name, and where in the tar its content begins and how long it is, in bytes."""

    name: str
    offset: int
    length: int


def members(path: str, file: ShardFile) -> Iterator[Member]:
    """Every regular file of the tar at `path`, open as `file`, front to back, from its headers alone.

    Raises DataError when the file is no plain tar, has a damaged header, or ends before its end-of-archive mark.
    """
    size = file.size
    end = 0  # of the members so far
    try:
        with file.stream() as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or tarfile keeps every header it has seen
                end = info.offset_data + (-(-info.size // BLOCK) * BLOCK if info.isreg() else 0)
                if info.issparse():
                    raise DataError(
                        f"{info.name} at byte {info.offset} of the shard {path} is stored sparsely, which rules out "
                        "random access. Write the shard again without tar's --sparse."
                    )
                if not info.isreg():
                    continue
                if info.offset_data + info.size > size:
                    raise DataError(
                        f"The shard {path} is cut short: {info.name} at byte {info.offset_data} should end at byte "
                        f"{info.offset_data + info.size}, and the file ends at byte {size}. "
                        "Copy the shard again from its source."
                    )
                yield Member(info.name, info.offset_data, info.size)
    except (tarfile.TarError, ValueError) as error:
        raise _damage(path, file, end) from error
    if file.read(BLOCK, end) != bytes(BLOCK):
        raise _damage(path, file, end)


def _damage(path: str, file: ShardFile, end: int) -> DataError:
    start, size = file.read(4, 0), file.size
    if start.startswith(_GZIP) or start == _ZSTD:
        return DataError(
            f"The shard {path} is compressed, which rules out random access. "
            "Unpack it to a plain tar file (images are compressed already)."
        )
    if size < end + BLOCK:
        return DataError(
            f"The shard {path} is cut short: it ends at byte {size} without an end-of-archive mark. "
            "Copy the shard again from its source."
        )
    return DataError(
        f"The shard {path} has a broken or half-written tar header at byte {end}, so nothing after it can be found. "
        "Copy the shard again from its source, or write it again."
    )
