"""What an import has written, as the index and a reader see it."""

from pathlib import Path

import numpy as np

from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader


def imported(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The image file and the label of each key."""
    index = open_index(folder, unlabelled=False)
    with SampleReader(index) as reader:
        images = reader.read(np.arange(len(index)))
    return {index.key(row): (images[row], int(index.label[row])) for row in range(len(index))}
