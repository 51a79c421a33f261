"""A disk that is full at any writer: a sentence, nothing lost that was whole, and it goes on when there is room.

Each is tried on a real small disk, where one may be mounted, and with a limit on the size of files, which any machine
has and which libraries meet as they meet a full disk.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdcache.cache.store import Cache
from kdcache.data.check import check_index
from kdcache.data.importers.folder import import_folder
from kdcache.data.index import build_index, find_index, open_index
from kdcache.data.part import write_part
from kdcache.errors import KdcacheError, RunError
from kdcache.inspection.contact_sheet import CaptionedImage, Cell, Sheet, write_sheet
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.io.atomic import PARTIAL_NAME
from kdcache.models.students import create_student
from kdcache.models.weights import read_weights
from kdcache.render.encoded import faults
from kdcache.training.checkpoint import Checkpoints
from kdcache.training.config import load_config, read_config
from kdcache.training.export import export_model
from kdcache.training.metrics import MetricsTable, TensorBoard, read_metrics
from kdcache.training.prediction_history import PredictionHistory
from kdcache.training.run_folder import RunFolder
from kdcache.training.train import train
from support.shards import encode_image, make_shards
from support.small_cache import fill, open_entry, tree
from support.small_disk import LimitedFiles, SmallDisk, SmallPlace, small_disk
from support.small_job import train_request

CONFIG = load_config("a2", options={"student.name": "test_resnet"})
#: Bytes of room at which each writer is tried: none, and so much that some of its files still fit.
ROOMS = (0, 8192, 40_000, 400_000)
#: Of a table of which a hundred rows take more than some of these.
COLUMNS = ("loss", *(f"part{number}" for number in range(30)))


@pytest.fixture(params=["full disk", "limited files"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallPlace]:
    folder = tmp_path / "place"
    folder.mkdir()
    if request.param == "limited files":
        yield LimitedFiles(folder)
        return
    with small_disk(folder) as disk:
        yield disk


@dataclass(frozen=True)
class Writer:
    """Something that writes below a folder.

    begin: makes what is there before.
    write: writes more, or anew.
    read: what can be had of what there was before, nothing of it made anew; raises where it is broken.
    result: what is the same wherever it was written; `read` where it is None.
    """

    begin: Callable[[Path], object]
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    result: Callable[[Path], object] | None = None


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((200_000,), value), "b": torch.full((3,), value)}


def save(folder: Path, step: int) -> None:
    Checkpoints(folder / "checkpoints").save(
        step, model=tensors(step), ema=tensors(-step), trainer={"optimizer": tensors(step)}
    )


def read_checkpoint(folder: Path) -> int:
    found = Checkpoints(folder / "checkpoints").latest(pytest.fail)
    assert found is not None
    assert torch.equal(found.model["a"], tensors(found.step)["a"])
    return found.step


def export(folder: Path, classes: int) -> None:
    export_model(folder / "export", create_student("test_resnet", num_classes=classes, size=32, seed=0))


def read_export(folder: Path) -> int:
    card = read_weights(folder / "export").card
    assert card is not None
    return card.num_classes


def enter(folder: Path) -> bool:
    return RunFolder(folder / "run").enter(CONFIG, {}, {"data": "x" * 3000}, np.zeros(20_000, np.int32), fresh=False)


def append(folder: Path, steps: int) -> None:
    table = MetricsTable(folder / "metrics.csv", COLUMNS, resume_step=1)
    for step in range(2, steps):
        table.append(step, dict.fromkeys(COLUMNS, 1 / step))


def predict(folder: Path, epoch: int) -> None:
    history = PredictionHistory(
        folder / "past", samples=50_000, num_classes=10, epochs_per_round=1, is_main=True, warn=lambda _: None
    )
    history.write(epoch, torch.arange(4), torch.zeros(4, 10))
    history.flush(epoch)


def first_round(folder: Path) -> bytes:
    return (folder / "past" / "round-00000000.f16").read_bytes()


def shards_in(folder: Path, images: int) -> Path:
    shutil.rmtree(folder / "set", ignore_errors=True)
    return make_shards(folder / "set", images=images, size=(24, 24), classes=2, shards=2)


def image_tree(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(12):
        file = folder / "tree" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_image(rng.integers(0, 256, (120, 120, 3), np.uint8), "png"))
    return folder / "tree"


def sheet(folder: Path, side: int) -> None:
    image = CaptionedImage(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8), ("a view",))
    write_sheet(Sheet(("title",), ("view",), ((Cell((image,)),),)), folder / "sheet.png")


def png_is_whole(folder: Path) -> int:
    from PIL import Image

    with Image.open(folder / "sheet.png") as image:
        image.load()
        return image.width


def whole_views(folder: Path) -> list[int]:
    entry = Cache.open(folder / "cache").entry("teacher")
    for view in entry.whole_views():
        for block in range(entry.layout.blocks):
            entry.read_block(view, block)
    return [view for view in entry.whole_views() if view == 0]


WRITERS = {
    "checkpoint": Writer(lambda at: save(at, 1), lambda at: save(at, 2), read_checkpoint),
    "export": Writer(lambda at: export(at, 3), lambda at: export(at, 4), read_export),
    "run folder": Writer(lambda at: None, enter, lambda at: RunFolder(at / "run").is_run()),
    "resumed run": Writer(enter, enter, lambda at: read_config(at / "run" / "config.yaml")),
    "metrics": Writer(
        lambda at: MetricsTable(at / "metrics.csv", COLUMNS).append(1, {"loss": 0.5}),
        lambda at: append(at, 100),
        lambda at: read_metrics(at / "metrics.csv")[0],
    ),
    "past": Writer(lambda at: predict(at, 0), lambda at: predict(at, 1), first_round),
    "index": Writer(
        lambda at: open_index(shards_in(at, 40)),
        lambda at: build_index(at / "set"),
        lambda at: find_index(at / "set").fingerprint,
    ),
    "part": Writer(
        lambda at: write_part(open_index(shards_in(at, 40)), 0.5, at / "part"),
        lambda at: write_part(open_index(at / "set"), 0.5, at / "part"),
        lambda at: find_index(at / "part").fingerprint,
    ),
    "check": Writer(
        lambda at: open_index(shards_in(at, 40)),
        lambda at: check_index(at / "set", faults, workers=1),
        lambda at: find_index(at / "set").fingerprint,
    ),
    "import": Writer(
        image_tree,
        lambda at: import_folder(at / "tree", at / "set"),
        lambda at: len(list((at / "set").glob("*.tar"))),
        lambda at: tree(at / "set"),
    ),
    "sheet": Writer(lambda at: sheet(at, 96), lambda at: sheet(at, 700), png_is_whole),
    "cache": Writer(
        lambda at: fill(open_entry(at / "cache"), views=1),
        lambda at: fill(open_entry(at / "cache"), views=2),
        whole_views,
        lambda at: tree(at / "cache"),
    ),
    "copy": Writer(
        lambda at: fill(open_entry(at / "cache"), views=1),
        lambda at: copy_cache(CopyOptions(str(at / "cache"), str(at / "copy"))),
        whole_views,
        lambda at: tree(at / "copy"),
    ),
}


def refusals(place: SmallPlace, write: Callable[[], object]) -> Iterator[str]:
    """What a writer says of ever more room, until there is enough or no more of it."""
    for room in ROOMS:
        with place.full(left=room):
            try:
                write()
                return
            except KdcacheError as error:
                message = str(error)
        assert place.cause in message
        assert place.remedy in message
        yield message


def left_over(folder: Path) -> list[Path]:
    """Files that were being written; but for those of an import, which the next one clears away."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if PARTIAL_NAME.fullmatch(path.name) or path.parent.name == ".partial"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_ends_a_writer_with_a_sentence_and_loses_nothing(
    place: SmallPlace, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.path / "cached"))  # where an index may lie as well
    writer, at = WRITERS[name], place.path / "at"
    at.mkdir()
    writer.begin(at)
    before = writer.read(at)
    tried = 0
    for _ in refusals(place, lambda: writer.write(at)):
        tried += 1
        assert writer.read(at) == before
        assert left_over(at) == []
    assert tried, "it was never full"
    writer.write(at)
    assert left_over(at) == []
    never_full = tmp_path / "never full"
    never_full.mkdir()
    writer.begin(never_full)
    writer.write(never_full)
    result = writer.result or writer.read
    assert result(at) == result(never_full)


def test_tensorboard_on_a_full_disk_is_warned_of_once(place: SmallPlace, recwarn: pytest.WarningsRecorder) -> None:
    warnings: list[str] = []
    board = TensorBoard(place.path / "events", warn=warnings.append)
    with place.full():
        for step in range(100):
            board.append(step, dict.fromkeys(COLUMNS, 0.5))
        board.close()
    assert len(warnings) == 1
    assert place.cause in warnings[0]
    assert "metrics.csv has all numbers. Make room" in warnings[0]
    assert not recwarn.list, "of a thread that ended by an error"


def run_training(job, out: Path) -> dict[str, torch.Tensor]:
    train(train_request(job.data, out, cache=str(job.cache), epochs=2))
    return load_file(out / "export" / "model.safetensors")


@pytest.fixture(scope="module")
def trained(job, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], int]:
    """The weights of a training that never met a full disk, and the bytes of one of its checkpoints."""
    out = tmp_path_factory.mktemp("trained") / "run"
    weights = run_training(job, out)
    return weights, sum(file.stat().st_size for file in (out / "checkpoints").rglob("*")) // 2


def test_a_training_goes_on_from_what_was_saved(place: SmallPlace, job, trained) -> None:
    """A small disk is full at the first checkpoint, at the second, and at the export; limited files are too small for
    the first.
    """
    wanted, a_checkpoint = trained
    out = place.path / "run"
    at = {0.5: ("checkpoints", 0), 1.5: ("checkpoints", 1), 1.1: ("export", 2)}
    for room, (folder, saved) in at.items() if isinstance(place, SmallDisk) else [(0.01, ("checkpoints", 0))]:
        with place.full(left=int(room * a_checkpoint)):
            sentence = rf"{folder}\S*: {place.cause}. What was saved before is whole: {place.remedy}"
            with pytest.raises(RunError, match=sentence):
                run_training(job, out)
        assert len(Checkpoints(out / "checkpoints").steps()) == saved
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in run_training(job, out).items())
