"""Makes the sample of Fashion-MNIST that kdcache ships, out of the whole set.

    python -m kdcache.data.sample.make /usr/share/datasets/fashion-mnist kdcache/data/sample

It keeps the first 6,000 training and the first 7,000 test images with their labels, in the original order and in the
original IDX format, compressed with xz instead of gzip: 14 % smaller, which makes room for 1,500 test images more.
"""

import lzma
import sys
from collections.abc import Mapping
from pathlib import Path

from kdcache.data.importers.idx import read_idx
from kdcache.errors import DataError

COUNTS = {"train": 6000, "t10k": 7000}


def make_sample(source: Path, out: Path, counts: Mapping[str, int] = COUNTS) -> None:
    """Write the four files of the sample to `out`: the first `counts` images of each split of `source`.

    Raises DataError when `source` has fewer, or lacks a file.
    """
    for split, count in counts.items():
        for kind, dimensions in (("images", 3), ("labels", 1)):
            name = f"{split}-{kind}-idx{dimensions}-ubyte"
            kept = read_idx(source / f"{name}.gz", dimensions)[:count]
            if len(kept) < count:
                raise DataError(f"{source / name}.gz has {len(kept)} entries, not {count}. Name the whole set.")
            header = b"\0\0\x08" + bytes([dimensions]) + b"".join(side.to_bytes(4, "big") for side in kept.shape)
            data = lzma.compress(header + kept.tobytes(), preset=9 | lzma.PRESET_EXTREME)
            (out / f"{name}.xz").write_bytes(data)


if __name__ == "__main__":
    make_sample(Path(sys.argv[1]), Path(sys.argv[2]))
