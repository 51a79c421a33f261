"""Small archives that are read as a whole: tars, compressed with gzip or not."""

import errno
import gzip
import os
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, cast

from kdcache.io.failures import RefusedError
from kdcache.io.reading import open_regular

_GZIP = b"\x1f\x8b"


def read_archive(path: Path, wanted: Collection[str], limit: int) -> tuple[list[str], dict[str, bytes]]:
    """Return the base names of all members of a tar, compressed with gzip or not, and the content of those wanted.

    limit: bytes of a member; larger ones are passed over.

    Raises OSError where it cannot be read or is damaged: the checksum of what gzip has compressed is looked at.
    """
    names: list[str] = []
    found: dict[str, bytes] = {}
    try:
        with open_regular(path) as file:
            is_compressed = file.read(2) == _GZIP
            file.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=file) if is_compressed else file)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    names.append(os.path.basename(member.name))
                    if names[-1] in wanted and member.isreg() and member.size <= limit:
                        content = tar.extractfile(member)
                        found[names[-1]] = content.read(limit) if content else b""
            while is_compressed and stream.read(2**20):  # gzip compares the checksum at the end
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        cause = f"it is damaged, or no tar archive ({error})"
        raise RefusedError(errno.EINVAL, cause, path, "download it again.") from error
    return names, found
