"""What the jobs of a sitting work on: photographs in shards, a teacher with random weights, and a cache of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import kdcache
from gpu.setting import Setting
from kdcache.data.writer import NewSample, write_shards
from kdcache.dumping.report import DumpReport
from kdcache.models.students import create_student
from kdcache.runtime.progress import silent
from kdcache.training.export import export_model
from kdcache.training.train import TrainReport
from support.images import PHOTOGRAPHS, encode, photograph

POLICY = "a2"
JPEG_SIZE = (500, 375)
#: Views that have one order, which a cache of this policy has all or none of.
FEWEST_VIEWS = 3
CLASSES = 10


def photographs(count: int) -> Iterator[NewSample]:
    """JPEGs of 500 x 375 pixels, each another part of a photograph, made on all cores."""
    draws = np.random.default_rng(0)
    parts = []
    for number in range(count):
        photo = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
        width = int(draws.integers(200, min(photo.width, photo.height * 4 // 3)))
        height = width * 3 // 4
        left, top = (int(draws.integers(0, free + 1)) for free in (photo.width - width, photo.height - height))
        parts.append((photo, (left, top, left + width, top + height)))
    with ThreadPoolExecutor() as threads:  # Pillow resizes and encodes without the interpreter's lock
        for number, file in enumerate(threads.map(jpeg, parts)):
            yield NewSample(f"{number:06d}", "jpg", file, number % CLASSES)


def jpeg(part: tuple[Image.Image, tuple[int, int, int, int]]) -> bytes:
    """A part of a photograph, given by its left, top, right and bottom, as a file."""
    photo, box = part
    return encode(photo.crop(box).resize(JPEG_SIZE), "JPEG", quality=90)


@dataclass(frozen=True)
class Workplace:
    """Data set, weights of the teacher, and folders of what is made of them."""

    setting: Setting
    folder: Path

    @classmethod
    def create(cls, folder: Path, setting: Setting) -> "Workplace":
        """Write the data set and the teacher's weights."""
        names = [f"class {number}" for number in range(CLASSES)]
        write_shards(photographs(setting.samples), folder / "data", samples_per_shard=512, class_names=names)
        network = create_student(setting.teacher, num_classes=CLASSES, size=setting.size, seed=0)
        export_model(folder / "teacher", network)
        return cls(setting, folder)

    @property
    def data(self) -> str:
        """The shards."""
        return str(self.folder / "data")

    @property
    def weights(self) -> Path:
        """The teacher's weights."""
        return self.folder / "teacher"

    @property
    def device(self) -> str:
        """The device as commands take it."""
        return str(self.setting.device)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a training over the data once."""
        return self.setting.samples // self.setting.batch

    def dump(self, cache: str, *, views: int, precision: str | None = None) -> DumpReport:
        """Let the teacher fill a cache with top-k targets."""
        return kdcache.dump_logits(
            self.setting.teacher,
            self.data,
            str(self.folder / cache),
            weights=self.weights,
            size=self.setting.size,
            views=views,
            policy=POLICY,
            batch_size=self.setting.batch,
            device=self.device,
            decode=self.setting.decode,
            precision=precision,
            progress=silent,
        )

    def train(self, out: str, *, precision: str, epochs: int, mode: str = "cache") -> TrainReport:
        """Train the student: from the cache, "supervised", or with the teacher "live"."""
        source: dict[str, Any] = {"cache": str(self.folder / "cache")}
        if mode == "supervised":
            source = {"supervised": True}
        elif mode == "live":
            source = {"online_teacher": self.setting.teacher, "teacher_weights": self.weights, "cache": None}
        settings = (f"precision={precision}", f"student.size={self.setting.size}", "schedule.warmup_epochs=0")
        return kdcache.train(
            self.setting.model,
            self.data,
            recipe="a2",
            epochs=epochs,
            batch_size=self.setting.batch,
            out=self.folder / out,
            device=self.device,
            decode=self.setting.decode,
            overrides=(*settings, "optimizer.lr=0.002"),
            progress=silent,
            **source,
        )
