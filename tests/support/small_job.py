"""A main job small enough for tests: shards of real pictures, a teacher with weights, and requests over them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcache.dumping.options import DumpOptions
from kdcache.loader.batches import Batch
from kdcache.models.students import create_student
from kdcache.objectives.base import Losses
from kdcache.runtime.progress import silent
from kdcache.training.export import export_model
from kdcache.training.options import TrainOptions
from kdcache.training.trainer import Trainer
from support.shards import make_shards

MODEL = "test_resnet"
CLASSES = 4
SAMPLES = 131  # odd: the last row of a view has no partner
SIZE = 32

MIXING_POLICY = f"""{{
    "auto_augment": "rand-m7-mstd0.5-inc1", "erase_prob": 0.25, "erase_mode": "pixel", "mixup": 0.2, "cutmix": 1.0,
    "reference_size": {SIZE}
}}"""

#: Columns of metrics.csv that no two runs have in common.
OF_THE_CLOCK = {"images_per_s", "wait_share", "memory_bytes", "energy_joules"}

# A recipe whose rates suit a hundred pictures; everything else is the option of the test.
SETTINGS = ("optimizer.lr=0.001", "schedule.warmup_epochs=0", "student.size=32", "batch_size=26")


def make_data(folder: Path, *, shards: int = 3, images: int = SAMPLES, seed: int = 0) -> str:
    """Shards of small coloured pictures, the same for the same `images` and `seed` however many shards there are."""
    return str(make_shards(folder, images=images, size=(36, 44), classes=CLASSES, shards=shards, seed=seed))


def make_teacher(folder: Path, *, size: int = SIZE, classes: int = CLASSES, seed: int = 7) -> Path:
    """The weights of an untrained model, with a card that says at which size it works."""
    network = create_student(MODEL, num_classes=classes, size=size, seed=seed)
    return export_model(folder, network)


def make_policy(file: Path, text: str = MIXING_POLICY) -> str:
    """A policy file; by default with all of RandAugment, erasing, and mixup or cutmix on every pair."""
    file.write_text(text, encoding="utf-8")
    return str(file)


def dump_request(data: str, cache: Path, weights: Path, policy: str | None, **choice: object) -> DumpOptions:
    """A dump of two `full` views on the CPU, in batches of 16."""
    settings: dict[str, object] = {"views": 2, "targets": "full", "batch_size": 16, "device": "cpu"}
    return DumpOptions(
        teacher=MODEL, data=data, cache=str(cache), weights=weights, policy=policy, **(settings | choice)
    )


def train_request(data: str, out: Path, **choice: object) -> TrainOptions:
    """A training of the small student on the CPU."""
    overrides = (*SETTINGS, *choice.pop("overrides", ()))
    settings: dict[str, object] = {"recipe": "fashion-mnist", "device": "cpu", "overrides": overrides}
    return TrainOptions(student=MODEL, data=data, out=out, **(settings | choice))


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Heard:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.task = silent.task

    def say(self, line: str) -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warned.append(line)


@contextmanager
def stopped_after(step: int) -> Iterator[None]:
    """Trainings get SIGTERM in their step of this number, and end as interrupted ones do."""
    train_step = Trainer.train_step

    def stop(self: Trainer, batch: Batch) -> Losses:
        losses = train_step(self, batch)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        with pytest.raises(KeyboardInterrupt):
            yield
