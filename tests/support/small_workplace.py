"""A working folder in which the commands of the documentation run: small data, a cache of ten views, runs, images."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from support.documented import code_blocks
from support.shards import draw_image
from support.small_job import MODEL, make_data

#: Folders that pages call runs: each is an export here, which is taken wherever a model is named.
RUNS = ("runs/a", "runs/b", "runs/alone", "runs/dkd", "runs/kd", "runs/seed0", "runs/seed1", "runs/seed2",
        "runs/student", "runs/teacher", "runs/resnet50-a2-beitv2_b-seed0")  # fmt: skip

#: What pages name and a small folder has otherwise: no images of ImageNet, no weights of large models.
INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "/data/imagenet/train": "images/train",
        "/data/imagenet/val": "images/val",
        "/shared/cache": "cache",
        "/shared/imagenet": "data",
        "/shared/val": "val",
        "imagenet-v2": "val",
        "imagenetv2-matched-frequency-format-val": "images/val",
        "0.01": "0.5",
        "0.1": "0.5",
    }
)


def make_workplace(root: Path, job: object, views_page: str) -> Path:
    """Fill a folder with what the pages call data, val, cache, images and runs, and with the policy of a page."""
    shutil.copytree(job.data, root / "data")
    shutil.copytree(job.cache, root / "cache")
    make_data(root / "val", shards=1, images=16, seed=3)
    for run in RUNS:
        shutil.copytree(job.weights.parent, root / run)
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("circle", "square")):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(draw_image(rng, 36, 44, label)).save(folder / f"{number}.jpg")
    (root / "my-policy.yaml").write_text(code_blocks(views_page, "yaml")[0], encoding="utf-8")
    return root


def on_small_data(words: list[str], weights: Path, fresh: str) -> list[str]:
    """A command of a page as it runs in the small folder.

    Dumps and trainings are dry runs of a small network in place of the large one, with the weights of a small teacher
    and its entry in the cache; a dump or an import into a folder goes into `fresh`, so that no command needs another.
    """
    words = [INSTEAD.get(word, word) for word in words]
    if words[0] == "dump-logits":
        words = _with(words, {"--teacher": MODEL, "--weights": str(weights), "--cache": fresh, "--batch-size": "16"})
    if words[0] == "train":
        live = "--online-teacher" in words
        options = {"--student": MODEL, "--batch-size": "26", "--out": fresh}
        options |= {"--online-teacher": MODEL, "--teacher-weights": str(weights)} if live else {}
        options |= {"--teacher": MODEL} if "--teacher" in words else {}
        words = _with(words, options)
    if words[0] in ("dump-logits", "train") and "--dry-run" not in words:
        words.append("--dry-run")
    if words[0] == "evaluate":
        words = _with(words, {"--reference": "runs/teacher"} if "--reference" in words else {})
    if words[0] == "import" or words[:2] == ["cache", "copy"]:
        words[3] = fresh
    if words[:2] == ["cache", "copy"]:
        words = _with(words, {"--views": "0:2"})
    return [*words, "--out", f"{fresh}.html"] if words[0] == "preview" else words


def _with(words: list[str], options: Mapping[str, str]) -> list[str]:
    """A command with these values of these options, in place of those that it has."""
    kept, skipped = [], False
    for word in words:
        if not skipped and word not in options:
            kept.append(word)
        skipped = word in options
    return [*kept, *(part for pair in options.items() for part in pair)]
