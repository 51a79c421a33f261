"""How far DALI's pixels on the CPU are from Pillow's: random resized crops of photographs, both filters.

    python benchmarks/pixels.py [FOLDER ...]

Without a folder, scikit-image's photographs. Prints a Markdown table: levels are those of 8-bit values.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from kdcache.render.opening import open_renderer
from kdcache.views.plan import make_plan
from kdcache.views.policy import Policy

SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")
HEADER = "| photographs | filter | crops | mean | worst image's mean | 99th percentile | 99.9th | largest | equal |"


def of_skimage(quality: int) -> Iterator[tuple[str, bytes]]:
    """Name and JPEG of each colour photograph that scikit-image ships."""
    for name in SKIMAGE:
        file = io.BytesIO()
        Image.fromarray(getattr(skimage.data, name)()).convert("RGB").save(file, "JPEG", quality=quality)
        yield name, file.getvalue()


def of_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each JPEG and PNG below `folder`."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.is_file():
            yield path.name, path.read_bytes()


def differences(encoded: bytes, filter: str, crops: int, size: int, seed: int) -> np.ndarray:
    """Absolute differences, uint8 [crops, 3, size, size]."""
    with Image.open(io.BytesIO(encoded)) as image:
        width, height = image.size
    keys = np.random.default_rng(seed).integers(0, 1 << 63, crops).astype(np.uint64)
    sides = np.full(crops, height), np.full(crops, width)
    plan = make_plan(Policy(interpolation=filter), 0, 0, keys, *sides)
    pixels = {}
    for name in ("dali", "pillow"):
        with open_renderer(name, size=size, max_batch=crops) as renderer:
            pixels[name] = renderer.render([encoded] * crops, plan.box, cubic=plan.cubic, flips=plan.flip)
    return (pixels["dali"].to(torch.int16) - pixels["pillow"].to(torch.int16)).abs().to(torch.uint8).numpy()


def line(name: str, photographs: list[tuple[str, bytes]], filter: str, crops: int, size: int) -> str:
    """One set of photographs and one filter as a row of the table."""
    counts = np.zeros(256, np.int64)
    worst = (0.0, "")
    for number, (photo, encoded) in enumerate(photographs):
        off = differences(encoded, filter, crops, size, seed=number)
        counts += np.bincount(off.ravel(), minlength=256)
        worst = max(worst, (float(off.mean(axis=(1, 2, 3), dtype=np.float64).max()), photo))
    share = np.cumsum(counts) / counts.sum()
    mean = float((counts * np.arange(256)).sum() / counts.sum())
    cells = (
        name,
        filter,
        f"{len(photographs) * crops:,}",
        f"{mean:.3f}",
        f"{worst[0]:.3f} ({worst[1]})",
        str(np.searchsorted(share, 0.99)),
        str(np.searchsorted(share, 0.999)),
        str(np.flatnonzero(counts).max()),
        f"{share[0]:.1%}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, help="JPEG and PNG files")
    parser.add_argument("--crops", type=int, default=16, help="of each photograph")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs of scikit-image's photographs")
    asked = parser.parse_args()
    sets = {folder.name: list(of_folder(folder)) for folder in asked.folders}
    sets = sets or {"scikit-image": list(of_skimage(asked.quality))}
    print(HEADER)
    print("|---|---|" + "---:|" * (HEADER.count("|") - 3))
    for name, photographs in sets.items():
        for filter in ("bilinear", "bicubic"):
            print(line(name, photographs, filter, asked.crops, asked.size), flush=True)


if __name__ == "__main__":
    main()
