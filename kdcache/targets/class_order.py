"""Classes named by how near they are to a view's most probable class, so that a name takes few bits.

A teacher confuses a class with the same few others again and again. For each class the order lists the `PREFIX`
classes nearest to it, the nearest first. A class among them is named by its rank, any other by `PREFIX` + its own
number: so 21,841 classes need a table of 11 MB instead of a gigabyte. No label is needed to read a name.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from kdcache.errors import CorruptError

#: Ranks that a class has, at most.
PREFIX = 256

#: Entries that are compared with their rows of the table at a time.
_SLICE = 8192


def prefix_of(num_classes: int) -> int:
    """Ranks that each class has in an order of so many classes."""
    return min(PREFIX, num_classes - 1)


def class_dtype(num_classes: int) -> str:
    """Return the smallest unsigned type that holds every class."""
    return np.min_scalar_type(max(num_classes - 1, 0)).name


@dataclass(frozen=True, eq=False)
class ClassOrder:
    """The table: row t has the classes nearest to class t, the nearest first, without t itself.

    Raises CorruptError for a table that is none.
    """

    table: Integer[np.ndarray, "c p"]

    def __post_init__(self) -> None:
        classes, prefix = self.table.shape
        ascending = np.sort(self.table, 1)
        if (
            prefix != prefix_of(classes)
            or self.table.dtype != class_dtype(classes)
            or (ascending[:, 1:] == ascending[:, :-1]).any()
            or (self.table >= classes).any()
            or (self.table == np.arange(classes)[:, None]).any()
        ):
            raise CorruptError(f"The order of {classes} classes does not name {prefix} others for each of them.")

    @property
    def checksum(self) -> str:
        """BLAKE2b-128 of the table, row by row as little-endian numbers of its type, in hex."""
        table = np.ascontiguousarray(self.table, self.table.dtype.newbyteorder("<"))
        return hashlib.blake2b(table.tobytes(), digest_size=16).hexdigest()

    def names(self, top: Integer[np.ndarray, " n"], class_id: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
        """Return the name of each class beside a most probable class (never the same one), int32."""
        found = np.empty(len(class_id), np.int32)
        for start in range(0, len(class_id), _SLICE):
            part = slice(start, start + _SLICE)
            same = self.table[top[part]] == class_id[part, None]
            far = self.table.shape[1] + class_id[part]
            found[part] = np.where(same.any(1), same.argmax(1), far) if same.shape[1] else far
        return found

    def classes(self, top: Integer[np.ndarray, " n"], name: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
        """Return the inverse of `names`; it must be below `prefix_of(C)` + C."""
        prefix = self.table.shape[1]
        place = top * prefix + name
        found = self.table.ravel().take(place, mode="clip").astype(np.int32)
        far = np.flatnonzero(name >= prefix)
        found[far] = name[far] - prefix
        return found
