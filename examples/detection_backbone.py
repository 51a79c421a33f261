"""A distilled ResNet as the backbone of torchvision's Mask R-CNN, trained on a folder in COCO's format.

Commands: kdcache export runs/resnet50-a2-beitv2_b-seed0 --format torchvision --out student
          python examples/detection_backbone.py student --coco coco --epochs 12
Table 11 of VanillaKD (arXiv:2305.15781) compares students as backbones of detectors. This is its recipe in small: the
exported student, batch norm frozen, a feature pyramid, Mask R-CNN, SGD with warm-up and two falls of the rate.
The folder has annotations.json and images/. Masks are polygons; crowds, which are run lengths, are left out.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms.v2.functional import pil_to_tensor

Sample = tuple[Tensor, dict[str, Tensor]]


class CocoFolder(Dataset[Sample]):
    """Images [3, h, w] in 0..1 with boxes [n, 4] in pixels, labels [n] from 1, and masks [n, h, w].

    Attributes:
        num_classes: number of categories; 0 stands for the background in labels.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        numbers = sorted(category["id"] for category in described["categories"])
        self.label = {number: place for place, number in enumerate(numbers, start=1)}
        self.num_classes = len(numbers)
        self.objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for found in described["annotations"]:
            # An object of no width or height has no box to be learnt.
            if not found.get("iscrowd") and min(found["bbox"][2:]) >= 1:
                self.objects[found["image_id"]].append(found)
        self.images = [image for image in described["images"] if self.objects[image["id"]]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Sample:
        image = Image.open(self.folder / "images" / self.images[place]["file_name"]).convert("RGB")
        objects = self.objects[self.images[place]["id"]]
        boxes = torch.tensor([found["bbox"] for found in objects], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]  # COCO has width and height
        masks = np.stack([draw_polygons(found["segmentation"], image.size) for found in objects])
        labels = torch.tensor([self.label[found["category_id"]] for found in objects])
        return pil_to_tensor(image) / 255, {"boxes": boxes, "labels": labels, "masks": torch.from_numpy(masks)}


def draw_polygons(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the mask [h, w] of an object, 1 within any of its polygons; `size` is width and height."""
    mask = Image.new("L", size)
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon(polygon, fill=1)
    return np.array(mask, dtype=np.uint8)


def flip(sample: Sample) -> Sample:
    """Return a sample seen in a mirror."""
    image, target = sample
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    return image.flip(2), {**target, "boxes": boxes, "masks": target["masks"].flip(2)}


def create_backbone(export: Path, out_channels: int = 256, trained_stages: int = 3) -> BackboneWithFPN:
    """Return the stages of a student with a feature pyramid on top.

    Args:
        export: folder of `kdcache export --format torchvision`, of a ResNet.
        out_channels: channels of each level of the pyramid.
        trained_stages: number of stages, from the coarsest on, that learn; the others stay as they were.
    """
    name, num_classes = (read_config(export)[key] for key in ("architecture", "num_classes"))
    # A detector's batches have too few images for statistics of their own.
    body: Any = torchvision.models.get_model(name, num_classes=num_classes, norm_layer=FrozenBatchNorm2d)
    body.load_state_dict(torch.load(export / "model.pth", weights_only=True))
    learnt = tuple(f"layer{5 - stage}." for stage in range(1, trained_stages + 1))
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(learnt))
    stages = {f"layer{number}": str(number) for number in range(1, 5)}
    widths = [body.inplanes // 8 * 2**number for number in range(4)]
    return BackboneWithFPN(body, stages, widths, out_channels)


def read_config(export: Path) -> dict[str, Any]:
    """Return what an export tells of the student: architecture, num_classes and preprocessing."""
    config: dict[str, Any] = json.loads((export / "config.json").read_text(encoding="utf-8"))
    return config


def main(arguments: list[str] | None = None) -> list[float]:
    """Train the detector, write its weights, and return the loss of each step."""
    options = parse(arguments)
    torch.manual_seed(0)
    data = CocoFolder(options.coco)
    eats = read_config(options.export)["pretrained_cfg"]
    model = MaskRCNN(
        create_backbone(options.export, options.channels),
        num_classes=data.num_classes + 1,
        min_size=options.image_size,
        max_size=options.image_size * 5 // 3,
        image_mean=list(eats["mean"]),
        image_std=list(eats["std"]),
        box_batch_size_per_image=options.regions,
    ).to(options.device)
    loader = DataLoader(data, options.batch_size, shuffle=True, num_workers=options.workers, collate_fn=list)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=options.lr, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(step, len(loader), options.epochs, options.warmup_steps)
    )
    losses = []
    for epoch in range(options.epochs):
        for images, targets in batches(loader, options.device):
            loss: Tensor = torch.stack(list(model(images, targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        print(f"Epoch {epoch}: loss {losses[-1]:.4f}")
    torch.save(model.state_dict(), options.out)
    return losses


def batches(loader: DataLoader[Sample], device: str) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Yield images and targets on the device, each image flipped by chance."""
    for samples in loader:
        samples = [flip(sample) if torch.rand(()) < 0.5 else sample for sample in samples]
        images = [image.to(device) for image, _ in samples]
        yield images, [{name: value.to(device) for name, value in target.items()} for _, target in samples]


def rate(step: int, steps_per_epoch: int, epochs: int, warmup_steps: int) -> float:
    """Return the factor of the learning rate: it rises over the warm-up and falls to a tenth at 8/12 and 11/12."""
    done = step / (steps_per_epoch * epochs)
    return min(1.0, (step + 1) / max(warmup_steps, 1)) * 0.1 ** sum(done >= part / 12 for part in (8, 11))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="folder of `kdcache export RUN --format torchvision`")
    parser.add_argument("--coco", type=Path, default=Path("coco"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--warmup-steps", type=int, default=500)
    parser.add_argument("--image-size", type=int, default=800, help="pixels of the shorter side")
    parser.add_argument("--channels", type=int, default=256, help="channels of each level of the pyramid")
    parser.add_argument("--regions", type=int, default=512, help="regions of each image that the heads learn from")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("mask_rcnn.pt"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
