"""The IDX format of MNIST and the sets that took its place (http://yann.lecun.com/exdb/mnist/)."""

import gzip
import lzma
import math
import zlib
from importlib.resources.abc import Traversable
from io import BytesIO

import numpy as np
from jaxtyping import UInt8

from kdcache.errors import DataError

#: Bytes of a file, compressed and decompressed: MNIST's largest have 47 MB. Of more the rest stays unread.
_MAX_BYTES = 2**30


def read_idx(file: Traversable, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read the array of unsigned bytes of an IDX file, which is compressed with gzip or xz by its extension.

    Raises DataError when it cannot be read, is damaged, or is no IDX file of so many dimensions.
    """
    try:
        with file.open("rb") as stream:
            compressed = stream.read(_MAX_BYTES)
        opener = lzma.open if file.name.endswith(".xz") else gzip.open
        with opener(BytesIO(compressed)) as decompressed:
            content = decompressed.read(_MAX_BYTES)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise _unusable(file, str(error)) from error
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise _unusable(file, f"it is no IDX file of bytes with {dimensions} dimensions")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) - start != math.prod(shape):
        raise _unusable(file, f"it holds {len(content) - start} bytes and should hold {math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unusable(file: Traversable, reason: str) -> DataError:
    return DataError(f"{file} cannot be used: {reason}. Download it again, or name another --source.")
