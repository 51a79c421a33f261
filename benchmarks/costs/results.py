"""Results, one JSON line each, kept as soon as they are there."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

import kdcache
from kdcache.render.opening import renderer_version
from kdcache.training.files import replace_file

_PACKAGES = ("torch", "timm", "numpy")


@dataclass(frozen=True)
class Result:
    """What an arm came to.

    Attributes:
        arm: its name; with `epochs` it is done once.
        top1, loss: of the export, on `images` test images.
        bytes_per_view, kl: size of the targets in the cache, and their mean KL from the teacher's outputs, in nats.
        seconds: of dumping, training and scoring, as far as the last call did them.
    """

    arm: str
    epochs: int
    top1: float
    loss: float
    images: int
    bytes_per_view: float | None
    kl: float | None
    seconds: float


class Results:
    """The file of results."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> list[Result]:
        """In the order in which they came."""
        if not self._file.exists():
            return []
        lines = self._file.read_text(encoding="utf-8").splitlines()
        return [Result(**json.loads(line)["result"]) for line in lines]

    def add(self, result: Result) -> None:
        """Append, the file whole at any time."""
        before = self._file.read_bytes() if self._file.exists() else b""
        line = json.dumps({"result": asdict(result), "versions": versions()})
        replace_file(self._file, before + line.encode() + b"\n")


def versions() -> dict[str, str]:
    """What the results were made with."""
    renderer = renderer_version("dali", device=torch.device("cpu"), decode="cpu")
    return {"kdcache": kdcache.__version__, **{name: version(name) for name in _PACKAGES}, "renderer": renderer}
