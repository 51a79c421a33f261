"""How much the parts of a sitting do, and where."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Setting:
    """How much is checked, and where.

    Attributes:
        decode: where DALI decodes: "auto", "gpu" or "cpu".
        size: of the images, in pixels a side.
        batch: rows at a time; even.
        batches: that are timed.
        crops: of each photograph.
        model: timm name of the student, whose training step is the measure of speed.
        teacher: timm name of the teacher; weights are random.
        samples: images of the data set of the jobs.
        steps: optimiser steps of the training.
        large: width and height of the large images, whose memory is watched.
        is_tiny: whether it is a rehearsal, whose figures say nothing.
    """

    device: torch.device
    decode: str = "auto"
    size: int = 224
    batch: int = 256
    batches: int = 40
    crops: int = 32
    model: str = "resnet50"
    teacher: str = "resnet152"
    samples: int = 2048
    steps: int = 200
    large: tuple[int, int] = (4000, 3000)
    is_tiny: bool = False

    @classmethod
    def tiny(cls, device: torch.device, decode: str = "auto") -> "Setting":
        """Seconds on a CPU: to see that the script runs."""
        small = {"size": 32, "batch": 8, "batches": 3, "crops": 2, "samples": 32, "steps": 8}
        return cls(
            device,
            decode,
            **small,
            model="test_resnet",
            teacher="test_resnet",
            large=(400, 300),
            is_tiny=True,
        )

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device.type == "cuda"

    @property
    def decodes(self) -> tuple[str, ...]:
        """The places where DALI can decode here."""
        return ("gpu", "cpu") if self.on_gpu and self.decode != "cpu" else ("cpu",)

    def synchronise(self) -> None:
        """Wait until the device has done its work."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def limited(self, holds: bool) -> bool | None:
        """Whether a limit of speed or memory holds; None where the figures are no GPU's."""
        return holds if self.on_gpu and not self.is_tiny else None


def spread(off: torch.Tensor) -> str:
    """Absolute differences as mean / 99th percentile / largest."""
    values = off.flatten().float().cpu()
    place = max(1, round(0.99 * len(values)))
    return f"{values.mean():.3f} / {values.kthvalue(place).values:.0f} / {values.max():.0f}"
