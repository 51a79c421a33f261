"""Teachers that are no models of timm's."""

from typing import Any

import torch
from torch import Tensor, nn

from kdcache.models.teacher_module import TeacherModule


class ZeroShot(nn.Module):
    """An image encoder whose features, of length one, are compared with a vector for each of four classes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.head = nn.Linear(8, 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [b, 4] of normalised images [b, 3, s, s]."""
        logits: Tensor = self.head(nn.functional.normalize(self.body(images)) * 10)
        return logits


def own_teacher(module: nn.Module, **choice: Any) -> TeacherModule:
    """The module as a teacher of the small job's data; the head is its layer `head`, where it has one."""
    settings: dict[str, Any] = {"name": "own", "version": "1", "mean": [0.5] * 3, "std": [0.25] * 3}
    settings |= {"image_size": 32, "num_classes": 4, "head": getattr(module, "head", None)}
    return TeacherModule(module, **(settings | choice))
