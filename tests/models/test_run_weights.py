"""The weights that a run had at the end of an epoch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcache.errors import CorruptError, ModelError
from kdcache.models.run_weights import at_epoch, kept_weights
from kdcache.training.checkpoint import Checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four epochs of five steps that kept the second and, after an interruption in mid-epoch, the fourth."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").write_text("step,epoch,loss\n5,1,0.4\n10,2,0.3\n15,3,0.2\n20,4,0.1\n")
    checkpoints = Checkpoints(run / "checkpoints", keep=9)
    for step, epoch in ((10, 2), (18, None), (20, 4)):
        checkpoints.save(step, model={"a": torch.full((2,), float(step))}, trainer={}, epoch=epoch)
    return run


def test_an_epoch_is_found_by_its_number(run: Path) -> None:
    assert load_file(kept_weights(run, 2))["a"].tolist() == [10, 10]
    assert load_file(kept_weights(run, 4))["a"].tolist() == [20, 20]


def test_the_moving_average_is_preferred(run: Path) -> None:
    tensors = {"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}}
    Checkpoints(run / "checkpoints", keep=9).save(15, **tensors, trainer={}, epoch=3)
    assert load_file(kept_weights(run, 3))["a"].tolist() == [1]


@pytest.mark.parametrize("epoch", [0, 1, 3, 5, 18])
def test_an_epoch_that_was_not_kept_is_refused_with_those_that_were(run: Path, epoch: int) -> None:
    with pytest.raises(ModelError, match=rf"epoch {epoch}; it has those of 2, 4: .*keep_epochs"):
        kept_weights(run, epoch)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no run"):
        kept_weights(tmp_path, 1)
    (tmp_path / "metrics.csv").write_text("step,epoch,loss\n")
    with pytest.raises(ModelError, match="it has none"):
        kept_weights(tmp_path, 1)


def test_damaged_weights_are_refused(run: Path) -> None:
    file = kept_weights(run, 2)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=r"model\.safetensors is missing or altered"):
        kept_weights(run, 2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("runs/big@epoch=35", ("runs/big", 35)),
        ("big@epoch=0", ("big", 0)),
        ("big@epoch=", None),
        ("big@epoch=x", None),
        ("@epoch=3", None),
        ("big", None),
    ],
)
def test_the_form_of_an_epochs_name(text: str, meant: tuple[str, int] | None) -> None:
    assert at_epoch(Path(text)) == (None if meant is None else (Path(meant[0]), meant[1]))


def test_a_file_that_is_called_so_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "odd@epoch=3"
    path.touch()
    assert at_epoch(path) is None
