"""What a check found, as Markdown."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Setting:
    """How much is checked, and where.

    Attributes:
        size: of the images, in pixels a side.
        batch: rows at a time; even.
        batches: that are timed.
        crops: of each photograph.
        model: timm name of the network whose training step is the measure.
    """

    device: torch.device
    size: int = 224
    batch: int = 256
    batches: int = 40
    crops: int = 32
    model: str = "resnet50"

    @classmethod
    def tiny(cls, device: torch.device) -> "Setting":
        """Seconds on a CPU: to see that the script runs."""
        return cls(device, size=32, batch=8, batches=3, crops=2, model="test_resnet")


@dataclass(frozen=True)
class Line:
    """One row: its cells, and whether what it says holds; None for a figure that has no limit."""

    cells: tuple[str, ...]
    holds: bool | None = None


@dataclass(frozen=True)
class Table:
    """One subject."""

    title: str
    header: tuple[str, ...]
    lines: list[Line]

    def markdown(self) -> str:
        """Heading and table, with a last column that says what holds."""
        rows = [(*self.header, "holds"), ("---",) * (len(self.header) + 1)]
        rows += [(*line.cells, {None: "", True: "yes", False: "**no**"}[line.holds]) for line in self.lines]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""])

    @property
    def failures(self) -> list[str]:
        """What does not hold."""
        return [f"{self.title}: {line.cells[0]}" for line in self.lines if line.holds is False]


def cause(error: Exception) -> str:
    """An error in one line, fit for a cell."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:300]}"


def spread(off: torch.Tensor) -> str:
    """Absolute differences as mean / 99th percentile / largest."""
    values = off.flatten().float().cpu()
    place = max(1, round(0.99 * len(values)))
    return f"{values.mean():.3f} / {values.kthvalue(place).values:.0f} / {values.max():.0f}"
