"""The data, teachers and students that accuracy.py compares with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import fonts
import yaml

from kdcache.data.importers.fashion_mnist import DEBIAN, SAMPLE, Split, import_fashion_mnist
from kdcache.data.index import open_index
from kdcache.data.part import write_part
from kdcache.demo.demo import RECIPE, STUDENT, TEACHER
from kdcache.runtime.progress import Progress
from kdcache.training.files import new_folder, replace_file
from kdcache.training.options import TrainOptions
from kdcache.training.train import train
from kdcache.views.policies import load_policy

EPOCHS = 20
#: Folders that are made here are new, so that none with files of others gives way.
_ANY_NAME = re.compile(r".*")


@dataclass(frozen=True)
class Material:
    """Shards to learn from and to score on, a teacher, and the distribution of views, as the jobs take them.

    Attributes:
        teacher: timm name; `weights`: its file or run folder.
        policy: a policy's name or file.
    """

    train: str
    test: str
    teacher: str
    weights: Path
    policy: str
    student: str = STUDENT
    recipe: str = RECIPE

    @property
    def policy_value(self) -> str:
        """The policy as a value of `views.policy`, for trainings without a cache."""
        return yaml.safe_dump(load_policy(self.policy).to_json(), default_flow_style=True, width=10_000).strip()


class Setting(Protocol):
    """Something to compare in."""

    @property
    def name(self) -> str:
        """Names it in arms."""

    def prepare(self, folder: Path, progress: Progress) -> Material:
        """Make in `folder` what is not there yet."""


@dataclass(frozen=True)
class FashionMnist:
    """6,000 images of Fashion-MNIST, the demo's teacher, which has seen all 60,000, and all 10,000 test images.

    Attributes:
        source: folder with the original files.
    """

    source: Path = DEBIAN
    name: str = "fashion-mnist"

    def prepare(self, folder: Path, progress: Progress) -> Material:
        """Import what is not there yet."""
        sources: Mapping[Split, str | Path] = {"train": SAMPLE, "test": self.source}
        for split, source in sources.items():
            if not (folder / split).exists():
                with new_folder(folder / split, _ANY_NAME) as partial:
                    import_fashion_mnist(partial, split=split, source=source, progress=progress)
        packed = resources.files("kdcache.data.sample") / "teacher.safetensors"
        with resources.as_file(packed) as file:  # kdcache is installed from files, so that it stays there
            return Material(str(folder / "train"), str(folder / "test"), TEACHER, file, policy="fashion-mnist")


# No flips, which make b of d.
FONTS_POLICY: Mapping[str, Any] = {"crop_scale": [0.7, 1.0], "hflip": 0.0, "reference_size": fonts.SIZE}
# The demo's teacher, as kdcache/data/sample/README.md has it.
_NARROW = {
    "stem_chs": [32, 32, 64],
    "stage_conv_chs": [48, 64, 80, 96],
    "stage_out_chs": [96, 192, 256, 384],
    "stem_stride": 2,
}


@dataclass(frozen=True)
class Fonts:
    """94 characters in the fonts of Debian (`fonts.py`); teachers see all training fonts' images, students a part.

    Attributes:
        folders: where fonts are installed.
        fraction: of each class's images, that students see.
        teacher_epochs: of the teacher's supervised training.
    """

    folders: tuple[Path, ...] = fonts.FOLDERS
    fraction: float = 0.09
    teacher_epochs: int = 4
    name: str = "fonts"

    def prepare(self, folder: Path, progress: Progress) -> Material:
        """Draw, and train the teacher, where that is not done yet; a training that was stopped goes on."""
        whole, part, policy = folder / "data", folder / "part", folder / "policy.yaml"
        if not whole.exists():
            found, _ = fonts.gather(self.folders)
            with new_folder(whole, _ANY_NAME) as partial:
                for side in ("train", "test"):
                    count = fonts.write([font for font in found if font.side == side], partial / side)
                    progress.say(f"{count:,} images to {side}")
        if not part.exists():
            index = open_index(str(whole / "train"), progress=progress)
            write_part(index, self.fraction, part, stratified=True, progress=progress)
        replace_file(policy, yaml.safe_dump(dict(FONTS_POLICY)).encode())
        material = Material(str(part), str(whole / "test"), TEACHER, folder / "teacher", policy=str(policy))
        if not (material.weights / "export").exists():
            train(
                TrainOptions(
                    student=TEACHER,
                    data=str(whole / "train"),
                    recipe=RECIPE,
                    epochs=self.teacher_epochs,
                    supervised=True,
                    overrides=(
                        f"student.kwargs={yaml.safe_dump(_NARROW, default_flow_style=True, width=10_000).strip()}",
                        f"views.policy={material.policy_value}",
                        "views.seed=1",
                        "optimizer.lr=0.005",
                        "schedule.warmup_epochs=1",
                    ),
                    out=material.weights,
                    device="cpu",
                ),
                progress,
            )
        return material
