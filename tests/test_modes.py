"""What kdcache makes can be used by whom the umask allows: data, caches and runs are shared between users."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.data.check import check_index
from kdcache.data.importers.fashion_mnist import import_fashion_mnist
from kdcache.data.importers.folder import import_folder
from kdcache.data.index import open_index
from kdcache.data.part import write_part
from kdcache.dumping.dump import dump
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.preview import PreviewOptions, preview
from kdcache.render.encoded import faults
from kdcache.training.train import train
from support.shards import make_shards
from support.small_job import dump_request, make_data, make_policy, make_teacher, train_request


@pytest.fixture(params=[0o022, 0o007], ids=["022", "007"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def root(tmp_path: Path, umask: int) -> Path:
    """A folder for what is made; pytest's own is for one user alone."""
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def unlike(folder: Path, umask: int) -> dict[str, str]:
    """What is in a folder and has other permissions than the umask leaves, by its path."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o777 if path.is_dir() else 0o666) & ~umask:
            found[str(path.relative_to(folder))] = f"{mode:o}"
    return found


def test_indexes(root: Path, umask: int) -> None:
    index = open_index(make_shards(root / "opened", images=8))
    write_part(index, 0.5, root / "part")
    check_index(make_shards(root / "checked", images=8), faults, workers=1)
    assert not unlike(root, umask)


def test_shards_of_an_import(root: Path, umask: int) -> None:
    (root / "src" / "class").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "src" / "class" / "a.png")
    import_folder(root / "src", root / "folder")
    import_fashion_mnist(root / "fashion", split="test", source="sample", limit=3)
    assert not unlike(root, umask)


def test_a_cache_its_copy_a_preview_a_run_with_its_checkpoints_and_its_export(root: Path, umask: int) -> None:
    data = make_data(root / "data", images=26)
    weights, policy, cache = make_teacher(root / "teacher"), make_policy(root / "policy.json"), root / "cache"
    dump(dump_request(data, cache, weights, policy))
    copy_cache(CopyOptions(str(cache), str(root / "copy")))
    preview(PreviewOptions(data, root / "a.html", cache=str(cache), images=2, views=1, renderer="pillow"))
    train(train_request(data, root / "run", cache=str(cache), overrides=("schedule.epochs=1",)))
    assert {path.name for path in root.rglob("*.safetensors")} >= {"model.safetensors", "trainer.safetensors"}
    assert not unlike(root, umask)
