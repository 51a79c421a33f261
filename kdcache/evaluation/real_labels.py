"""Several right labels for each image: those of ImageNet-ReaL, or of a file of one's own.

Beyer et al. 2020, "Are we done with ImageNet?", publish a JSON list with a list of labels for each image of ImageNet's
validation set, in the order of ILSVRC2012_val_00000001 to ILSVRC2012_val_00050000.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.data.index import Index
from kdcache.data.lost import is_lost
from kdcache.errors import DataError, reason
from kdcache.io.json_format import parse_json
from kdcache.io.limits import MAX_CLASSES
from kdcache.io.reading import read_bytes

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")


@dataclass(frozen=True, eq=False)
class RealLabels:
    """The labels of a file.

    Attributes:
        path: the file.
        by_number: labels of image 1, 2, ... of ImageNet's validation set; empty where the file has keys.
        by_key: labels of each key; empty where the file is a list.
    """

    path: Path
    by_number: tuple[frozenset[int], ...]
    by_key: Mapping[str, frozenset[int]]

    def of_index(self, index: Index) -> tuple[frozenset[int], ...] | None:
        """Return the labels of each sample that is not lost, in the order of their numbers; None if none has any here.

        Raises:
            DataError: some samples have labels in the file, and others have not: these are other data.
        """
        keys = [index.key(row) for row in (~is_lost(index)).nonzero()[0].tolist()]
        found = [self._of_key(key) for key in keys]
        missing = [key for key, labels in zip(keys, found, strict=True) if labels is None]
        if len(missing) == len(keys):
            return None
        if missing:
            raise DataError(
                f"{self.path} has labels of {len(keys) - len(missing):,} samples of {index.shards_folder}, and none of "
                f"{len(missing):,} others, such as {missing[0]}: give the file that belongs to these data."
            )
        return tuple(labels for labels in found if labels is not None)

    def _of_key(self, key: str) -> frozenset[int] | None:
        if self.by_key:
            return self.by_key.get(key)
        match = _NUMBER.search(key)
        number = int(match[1]) if match else 0
        return self.by_number[number - 1] if 1 <= number <= len(self.by_number) else None


def read_real_labels(path: Path) -> RealLabels:
    """Read a JSON list of lists of labels, as ImageNet-ReaL has it, or an object of such lists by key of the sample.

    Raises:
        DataError: the file cannot be read, or is something else.
    """
    try:
        values = parse_json(read_bytes(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"The labels {path} cannot be read ({reason(error)}): give ImageNet-ReaL's real.json with --real-labels."
        ) from error
    if isinstance(values, list) and values:
        return RealLabels(path, tuple(_labels(path, part, f"image {n}") for n, part in enumerate(values, start=1)), {})
    if isinstance(values, dict) and values:
        return RealLabels(path, (), {key: _labels(path, part, key) for key, part in values.items()})
    raise DataError(
        f"{path} holds no list of lists of labels, and no object of such lists by key: give ImageNet-ReaL's real.json "
        "with --real-labels."
    )


def _labels(path: Path, value: Any, which: str) -> frozenset[int]:
    is_list = isinstance(value, list) and all(type(label) is int and 0 <= label < MAX_CLASSES for label in value)
    if not is_list:
        raise DataError(f"{path} has no list of class numbers for {which}: give a list of lists of whole numbers.")
    return frozenset(value)
