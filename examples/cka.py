"""How alike two models see: minibatch CKA between all layers of both, on shards, as a heatmap (Figure 2 of VanillaKD).

Command: python examples/cka.py resnet50.a1_in1k local-dir:runs/resnet50-a2-beitv2_b-seed0/export --data val
CKA is that of Nguyen, Raghu and Kornblith 2021 (arXiv:2010.15327): the unbiased HSIC of each minibatch, averaged over
minibatches before it is normalised, so that the result does not depend on the batch size.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import webdataset
from PIL import Image, ImageDraw
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

#: Colours of the heatmap for 0, 1/4, 1/2, 3/4 and 1: dark to light, so that it is read in grey as well.
COLOURS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]])


def centred_gram(outputs: Tensor) -> Tensor:
    """Return the U-centred Gram matrix of outputs [b, ...], as b * b numbers.

    The inner product of two of them, over b (b - 3), is the unbiased estimate of HSIC (Song et al. 2012).
    """
    rows = outputs.flatten(1).double()
    count = len(rows)
    gram = rows @ rows.T
    gram.fill_diagonal_(0)
    sums = gram.sum(0)
    gram -= (sums[:, None] + sums[None, :]) / (count - 2) - sums.sum() / ((count - 1) * (count - 2))
    gram.fill_diagonal_(0)
    return gram.flatten()


class Layers:
    """The layers of a model and the Gram matrices of their outputs for the last batch.

    Attributes:
        names: names of the layers in the order of the model's modules: convolutions and linear layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        layers = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        self.names = [name for name, _ in layers]
        self._grams: dict[str, Tensor] = {}
        for name, part in layers:
            part.register_forward_hook(lambda _, inputs, output, name=name: self._keep(name, output))

    def _keep(self, name: str, output: Tensor) -> None:
        # One layer at a time: the outputs of all layers together would take gigabytes.
        self._grams[name] = centred_gram(output)

    @torch.inference_mode()
    def grams(self, images: Tensor) -> Tensor:
        """Return the Gram matrices [layers, b * b] for a batch of images."""
        self.model(images)
        return torch.stack([self._grams[name] for name in self.names])


def minibatch_cka(one: Layers, other: Layers, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Return CKA [layers of one, layers of other], at most 1; around 0 where layers have nothing in common.

    Args:
        one, other: the models' layers.
        batches: the same images as each model takes them, [b, 3, s, s], with b of 4 or more.
    """
    both, of_one, of_other = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for images, same_images in batches:
        a, b = one.grams(images), other.grams(same_images)
        scale = len(images) * (len(images) - 3)
        both = both.to(a.device) + a @ b.T / scale
        of_one = of_one.to(a.device) + a.square().sum(1) / scale
        of_other = of_other.to(b.device) + b.square().sum(1) / scale
    if not both.ndim:
        raise SystemExit("There are fewer images than a batch holds: give other shards, or a smaller batch.")
    return both / (of_one[:, None] * of_other[None, :]).sqrt()


def read_batches(
    shards: Path, transforms: Sequence[Any], batch_size: int, count: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first `count` whole batches of a folder of shards, prepared as each model takes them."""
    files = [str(file) for file in sorted(shards.glob("*.tar"))]
    images = (
        image for (image,) in webdataset.WebDataset(files, shardshuffle=False).decode("pilrgb").to_tuple("jpg;png")
    )
    for _ in range(count):
        some = list(itertools.islice(images, batch_size))
        if len(some) < batch_size:
            return
        one, other = (torch.stack([transform(image) for image in some]).to(device) for transform in transforms)
        yield one, other


def draw_heatmap(values: Tensor, titles: tuple[str, str], cell: int = 8) -> Image.Image:
    """Return values in 0..1 as an image: layers of one model upwards, those of the other to the right."""
    shown = values.clamp(0, 1).flip(0).repeat_interleave(cell, 0).repeat_interleave(cell, 1).cpu().numpy()
    stops = np.linspace(0, 1, len(COLOURS))
    pixels = np.stack([np.interp(shown, stops, COLOURS[:, channel]) for channel in range(3)], axis=2)
    margin = 16
    image = Image.new("RGB", (pixels.shape[1] + margin, pixels.shape[0] + margin), "white")
    image.paste(Image.fromarray(pixels.astype(np.uint8)), (margin, 0))
    ImageDraw.Draw(image).text((margin, pixels.shape[0] + 2), titles[1], fill="black")
    upwards = Image.new("RGB", (pixels.shape[0], margin), "white")
    ImageDraw.Draw(upwards).text((0, 2), titles[0], fill="black")
    image.paste(upwards.rotate(90, expand=True), (0, 0))
    return image


def main(arguments: list[str] | None = None) -> Tensor:
    """Compute CKA between two models, draw it, and return it."""
    options = parse(arguments)
    models = [timm.create_model(name, pretrained=True).eval().to(options.device) for name in options.models]
    transforms = [
        create_transform(**resolve_model_data_config(model), is_training=False)  # type: ignore[no-untyped-call]
        for model in models
    ]
    one, other = map(Layers, models)
    batches = read_batches(options.data, transforms, options.batch_size, options.batches, options.device)
    values = minibatch_cka(one, other, batches)
    first, second = options.models
    draw_heatmap(values, (first, second)).save(options.out)
    print(f"{options.out}: {len(one.names)} layers of {first} upwards, {len(other.names)} of {second} to the right")
    return values


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="timm names, or local-dir:EXPORT of a run")
    parser.add_argument("--data", type=Path, default=Path("val"), help="folder of shards")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("cka.png"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
