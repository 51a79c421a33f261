"""Which model a name or a folder means."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from kdcache.errors import ModelError, UsageError
from kdcache.models.load import load_model
from kdcache.models.source import ModelSource, label_of, model_source
from kdcache.models.weights import weight_hash
from support.small_job import MODEL, make_teacher


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path) -> Path:
    make_teacher(here / "runs" / "big" / "export")
    return Path("runs/big")


def test_names_are_names(here: Path) -> None:
    assert model_source("resnet152") == ModelSource("resnet152", None, "resnet152")
    assert model_source("resnet18", Path("x.pth")) == ModelSource("resnet18", Path("x.pth"), "resnet18")
    assert model_source("resnet152").architecture == "resnet152"
    assert model_source("beitv2_b").architecture == "beitv2_base_patch16_224"
    assert model_source("hf-hub:timm/some.thing").architecture is None


@pytest.mark.parametrize(
    "given", ["runs/big", "runs/big/", "runs/big/export", "local-dir:runs/big/export", "./runs/big"]
)
def test_folders_say_which_model_they_hold(run: Path, given: str) -> None:
    source = model_source(given)
    assert (source.name, source.label, source.architecture) == (None, "big", MODEL)
    network = load_model(source.name, source.weights)
    assert network.card.size == 32


def test_a_folder_here_needs_no_path(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("runs")
    assert model_source("big") == ModelSource(None, Path("big"), "big")


def test_a_folder_called_like_a_model_is_meant_where_it_holds_weights(here: Path) -> None:
    (here / "resnet18").mkdir()
    assert model_source("resnet18").name == "resnet18"
    make_teacher(here / "resnet18" / "export")
    assert model_source("resnet18").name is None


def test_what_is_not_there_is_refused(here: Path) -> None:
    for given in ("runs/big", "local-dir:big"):
        with pytest.raises(ModelError, match="no run folder"):
            model_source(given)
    with pytest.raises(ModelError, match="no model called 'big'"):
        model_source("big")
    with pytest.raises(ModelError, match="no run of kdcache's"):
        model_source("runs/big@epoch=3")


def test_weights_beside_a_folder_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="weights of its own"):
        model_source(str(run), Path("other.safetensors"))


def test_a_folder_without_weights_is_refused_alike_with_and_without_others(here: Path) -> None:
    """Whoever is told to leave them out must not be told then to give them."""
    (here / "bare").mkdir()
    for weights in (None, Path("bare/own.pth")):
        with pytest.raises((ModelError, UsageError), match="name the model"):
            model_source("./bare", weights)


def test_a_folder_that_does_not_say_its_model_is_refused(here: Path) -> None:
    (here / "bare").mkdir()
    save_file({"a": torch.zeros(1)}, here / "bare" / "model.safetensors")
    with pytest.raises(ModelError, match="do not say which model"):
        model_source("./bare")


def test_a_run_that_has_not_ended_says_how_to_go_on(here: Path) -> None:
    (here / "run" / "checkpoints").mkdir(parents=True)
    (here / "run" / "config.yaml").touch()
    with pytest.raises(ModelError, match=r"not come to its end.*run@epoch=N"):
        model_source("run")


def test_labels_name_runs_and_epochs() -> None:
    assert label_of("resnet50") == "resnet50"
    assert label_of("hf-hub:timm/some.thing") == "hf-hub:timm/some.thing"
    assert label_of("runs/big@epoch=35") == "big-epoch-35"
    assert label_of("local-dir:/models/my teacher") == "my-teacher"


@pytest.mark.parametrize("safely", [True, False, "both"])
def test_a_model_that_timm_saved_is_taken_with_its_config(here: Path, safely: bool | str) -> None:
    module = timm.create_model(MODEL, num_classes=3, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3), "crop_pct": 0.9})
    save_for_hf(module, here / "saved", safe_serialization=safely)
    source = model_source("local-dir:saved")
    assert source.architecture == MODEL
    network = load_model(source.name, source.weights)
    assert (network.card.num_classes, network.card.mean, network.card.crop_pct) == (3, (0.1, 0.2, 0.3), 0.9)
    assert weight_hash(network.module.state_dict()) == weight_hash(module.state_dict())


@pytest.mark.parametrize("config", ["{", '{"architecture": "resnet18"}', '{"architecture": "a", "pretrained_cfg": 3}'])
def test_a_config_of_timms_that_cannot_be_read_is_refused(here: Path, config: str) -> None:
    (here / "saved").mkdir()
    save_file({"a": torch.zeros(1)}, here / "saved" / "model.safetensors")
    (here / "saved" / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"config\.json"):
        model_source("./saved")
    (here / "saved" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="do not say which model"):
        model_source("./saved")
