"""How far DALI's pixels on the CPU are from Pillow's: random resized crops of photographs, both filters.

    python benchmarks/pixels.py [FOLDER ...]
    python benchmarks/pixels.py --policy NAME [--policy NAME ...] [FOLDER ...]

Without a folder, scikit-image's photographs. With --policy, whole views of it: cropped, resized, operated on, erased
and mixed, at its reference size. Prints a Markdown table: levels are those of 8-bit values.
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
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.mix import mix
from kdcache.views.plan import make_plan
from kdcache.views.policies import NAMED
from kdcache.views.policy import Policy

SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")
HEADER = "| photographs | filter | crops | mean | worst image's mean | 99th percentile | 99.9th | largest | equal |"
POLICY_HEADER = "| photographs | policy | views | mean | worst view's mean | 99th percentile | largest |"


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


def view_differences(photographs: list[bytes], policy: Policy, views: int, seed: int) -> np.ndarray:
    """Absolute differences of finished views, float32 [views, 3, size, size]; neighbours are other photographs."""
    encoded = [photographs[number % len(photographs)] for number in range(views)]
    sides = np.array([Image.open(io.BytesIO(photograph)).size for photograph in photographs])
    width, height = np.resize(sides, (views, 2)).T
    keys = np.random.default_rng(seed).integers(0, 1 << 63, views).astype(np.uint64)
    plan = make_plan(policy, 0, 0, keys, height, width)
    size, pixels = policy.reference_size, {}
    for name in ("dali", "pillow"):
        with open_renderer(name, size=size, max_batch=views) as renderer, Augmenter(policy) as augmenter:
            rendered = renderer.render(encoded, plan.box, cubic=plan.cubic, flips=plan.flip, crop_pct=plan.crop_pct)
            pixels[name] = mix(augmenter.apply(rendered, plan), plan.weight, plan.cut, size)
    return (pixels["dali"] - pixels["pillow"]).abs().numpy()


def policy_line(name: str, photographs: list[tuple[str, bytes]], policy: str, views: int) -> str:
    """One set of photographs and one policy as a row of the table."""
    off = view_differences([encoded for _, encoded in photographs], NAMED[policy], views, seed=0)
    of_view = off.mean(axis=(1, 2, 3), dtype=np.float64)
    worst = int(of_view.argmax())
    cells = (
        name,
        policy,
        f"{views:,}",
        f"{of_view.mean():.3f}",
        f"{of_view[worst]:.3f} ({photographs[worst % len(photographs)][0]})",
        f"{np.percentile(off, 99):.2f}",
        f"{off.max():.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, help="JPEG and PNG files")
    parser.add_argument("--crops", type=int, default=16, help="of each photograph")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs of scikit-image's photographs")
    parser.add_argument("--policy", metavar="NAME", action="append", choices=NAMED, help="whole views of it")
    parser.add_argument("--views", type=int, default=96, help="of each --policy")
    asked = parser.parse_args()
    sets = {folder.name: list(of_folder(folder)) for folder in asked.folders}
    sets = sets or {"scikit-image": list(of_skimage(asked.quality))}
    if asked.policy:
        start(POLICY_HEADER)
        for name, photographs in sets.items():
            for policy in asked.policy:
                print(policy_line(name, photographs, policy, asked.views), flush=True)
        return
    start(HEADER)
    for name, photographs in sets.items():
        for filter in ("bilinear", "bicubic"):
            print(line(name, photographs, filter, asked.crops, asked.size), flush=True)


def start(header: str) -> None:
    """The head of a table whose first two columns are words."""
    print(header)
    print("|---|---|" + "---:|" * (header.count("|") - 3))


if __name__ == "__main__":
    main()
