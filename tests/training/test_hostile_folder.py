"""Run folders with links and special files in them: nothing outside changes, and nothing is read without end."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.errors import CorruptError, KdcacheError, RunError
from kdcache.models.run_weights import kept_weights
from kdcache.models.students import create_student
from kdcache.models.weights import read_weights
from kdcache.training.checkpoint import Checkpoints
from kdcache.training.config import load_config, read_config
from kdcache.training.export import export_model
from kdcache.training.metrics import MetricsTable, TensorBoard, read_metrics
from kdcache.training.prediction_history import PredictionHistory
from kdcache.training.recipes import read_recipe
from kdcache.training.run_folder import RunFolder, stored_windows
from support.links import Foreign, endless, fifo, too_long

MODEL = {"a": torch.ones(3)}
CONFIG = load_config("a2", options={"student.name": "m"})
WINDOWS = np.zeros(4, np.int32)


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    return Foreign(tmp_path / "foreign")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one checkpoint."""
    folder = tmp_path / "run"
    assert not enter(folder)
    Checkpoints(folder / "checkpoints").save(1, model=MODEL, trainer={})
    MetricsTable(folder / "metrics.csv", ("epoch", "loss")).append(1, {"epoch": 1, "loss": 0.5})
    return folder


def enter(folder: Path, fresh: bool = False) -> bool:
    return RunFolder(folder).enter(CONFIG, {}, {}, WINDOWS, fresh=fresh)


def history_in(folder: Path) -> PredictionHistory:
    return PredictionHistory(folder / "past", samples=4, num_classes=3, epochs_per_round=1, is_main=True, warn=print)


def predict(folder: Path) -> None:
    for epoch in range(3):
        history_in(folder).write(epoch, torch.arange(4), torch.zeros(4, 3))


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("name", ["checkpoints", "export", "events", "past", "metrics.csv", "steps.csv", "config.yaml"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_folder_with_a_link_is_refused_before_anything_changes(
    run: Path, foreign: Foreign, name: str, fresh: bool
) -> None:
    if (run / name).exists():
        (run / name).rename(run.parent / "moved")
    (run / name).symlink_to(foreign.path if "." not in name else run.parent / "moved")
    before = files_below(run)
    with pytest.raises(RunError, match=rf"{name} is a symbolic link, .* put a folder or a file in the link's place"):
        enter(run, fresh)
    assert files_below(run) == before
    foreign.assert_untouched()


@pytest.mark.parametrize(
    "write",
    [
        lambda run: Checkpoints(run / "checkpoints").save(2, model=MODEL, trainer={}),
        lambda run: Checkpoints(run / "checkpoints")._prune(2),
        lambda run: export_model(run / "export", create_student("test_resnet", num_classes=3, size=32, seed=0)),
        predict,
    ],
    ids=["checkpoints", "prune", "export", "past"],
)
def test_nothing_of_a_run_is_written_or_removed_through_a_link(
    tmp_path: Path, foreign: Foreign, write: Callable[[Path], object]
) -> None:
    (tmp_path / "run").mkdir()
    (foreign.path / "step-00000001").mkdir()
    (foreign.path / "step-00000001" / "manifest.json").write_text("of somebody else's")
    (foreign.path / "round-00000007.f16").write_text("of somebody else's")
    foreign.note()
    for name in ("checkpoints", "export", "past"):
        (tmp_path / "run" / name).symlink_to(foreign.path)
    with pytest.raises(RunError, match="is a symbolic link"):
        write(tmp_path / "run")
    foreign.assert_untouched()


def test_numbers_are_not_written_through_a_link(run: Path, foreign: Foreign) -> None:
    (run / "metrics.csv").unlink()
    table = MetricsTable(run / "metrics.csv", ("loss",))
    (run / "metrics.csv").unlink()
    (run / "metrics.csv").symlink_to(foreign.path / "precious.txt")
    with pytest.raises(RunError, match="is a symbolic link"):
        table.append(1, {"loss": 1.0})
    (run / "events").symlink_to(foreign.path)
    warnings: list[str] = []
    TensorBoard(run / "events", warn=warnings.append).append(1, {"loss": 1.0})
    assert len(warnings) == 1
    assert "is a symbolic link" in warnings[0]
    foreign.assert_untouched()


def test_the_run_folder_itself_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    assert enter(tmp_path / "link")
    Checkpoints(tmp_path / "link" / "checkpoints").save(2, model=MODEL, trainer={})
    assert Checkpoints(run / "checkpoints").steps() == [1, 2]


def test_beginning_anew_removes_what_a_run_wrote_and_nothing_else(run: Path) -> None:
    mine = ["thesis.txt", "checkpoints/notes.txt", "checkpoints/step-00000001/why.txt", "past/x.f16", "events/plot.png"]
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("of the user's own")
    predict(run)
    assert not enter(run, fresh=True)
    assert files_below(run) == {*mine, "config.yaml", "run_identity.json", "invocation.json", "windows.npy"}
    assert Checkpoints(run / "checkpoints").steps() == []


def test_an_export_that_could_not_be_replaced_is_told_before_training(run: Path) -> None:
    (run / "export").mkdir()
    (run / "export/README.md").write_text("of the user's own")
    with pytest.raises(RunError, match=r"holds README\.md, which kdcache did not write.* move it elsewhere"):
        enter(run)


def test_a_checkpoint_goes_and_a_file_of_the_user_s_in_it_stays(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, model=MODEL, trainer={})
    (tmp_path / "checkpoints/step-00000001/why.txt").write_text("of the user's own")
    checkpoints.save(2, model=MODEL, trainer={})
    assert checkpoints.steps() == [2]
    assert files_below(tmp_path / "checkpoints/step-00000001") == {"why.txt"}
    assert checkpoints.latest(pytest.fail).step == 2


def test_a_start_that_was_killed_while_it_wrote_a_file_is_taken_up(tmp_path: Path) -> None:
    left = tmp_path / "run" / ".windows.npy.partial-0123456789abcdef0123456789abcdef"
    left.parent.mkdir()
    left.write_bytes(b"")
    assert not enter(tmp_path / "run")
    assert not left.exists()


@pytest.mark.parametrize("harm", [fifo, endless, too_long])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.yaml", lambda run: read_config(run / "config.yaml")),
        ("run_identity.json", lambda run: enter(run)),
        ("metrics.csv", lambda run: read_metrics(run / "metrics.csv")),
        ("metrics.csv", lambda run: MetricsTable(run / "metrics.csv", ("epoch", "loss"))),
        ("metrics.csv", lambda run: kept_weights(run, 1)),
        ("windows.npy", lambda run: stored_windows(run, fresh=False) if RunFolder(run).is_run() else enter(run)),
        ("recipe.yaml", lambda run: read_recipe(str(run / "recipe.yaml"))),
        ("export/model.safetensors", lambda run: read_weights(run)),
    ],
)
def test_what_is_no_regular_file_of_a_bounded_size_is_refused_at_once(
    run: Path, name: str, read: Callable[[Path], object], harm: Callable[[Path], None]
) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    harm(run / name)
    with pytest.raises(KdcacheError) as caught:
        read(run)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize("harm", [fifo, endless, too_long])
@pytest.mark.parametrize("name", ["manifest.json", "trainer.json", "model.safetensors"])
def test_a_checkpoint_with_such_a_file_is_broken(run: Path, name: str, harm: Callable[[Path], None]) -> None:
    checkpoints = Checkpoints(run / "checkpoints")
    harm(run / "checkpoints/step-00000001" / name)
    with pytest.raises(CorruptError, match="step-00000001 is broken"):
        checkpoints.load(1)
    manifest = run / "checkpoints/step-00000001/manifest.json"
    if name != "manifest.json":  # which says so itself
        content = json.loads(manifest.read_text())
        content["files"][name] = {"bytes": 2**40, "blake2b": "0" * 64}
        manifest.write_text(json.dumps(content))
        with pytest.raises(CorruptError, match="step-00000001 is broken"):
            checkpoints.load(1)
    fifo(run / "checkpoints/best.json")
    assert checkpoints.best_step() is None


def test_windows_that_claim_to_be_more_than_there_are_take_no_memory(run: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<i4", "fortran_order": False, "shape": (2**50,)})
    (run / "windows.npy").write_bytes(content.getvalue() + bytes(100))
    with pytest.raises(RunError, match=r"windows\.npy cannot be read"):
        stored_windows(run, fresh=False)


def test_a_run_of_the_former_names_is_refused_and_can_be_replaced(run: Path) -> None:
    (run / "run_identity.json").rename(run / "belongs.json")
    (run / "invocation.json").rename(run / "given.json")
    with pytest.raises(RunError, match=r"earlier version of kdcache .*--fresh"):
        enter(run)
    assert not enter(run, fresh=True)
    assert not files_below(run) & {"belongs.json", "given.json"}
    assert enter(run)
