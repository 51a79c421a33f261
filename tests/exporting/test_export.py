"""`kdcache export`: what others load computes what the run's model computes, and what cannot be exported is refused."""

import json
import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
import torchvision
from huggingface_hub import ModelCard as HubCard
from PIL import Image
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from typer.testing import CliRunner

import kdcache
from kdcache.errors import FolderHeldError, ModelError, RunError, UsageError
from kdcache.exporting.formats import FORMATS, TORCHVISION_MODELS
from kdcache.io import folder_lock
from kdcache.models.load import load_model
from kdcache.models.students import StudentOptions, create_student
from kdcache.runtime.progress import silent
from kdcache.training.export import export_model
from kdcache.training.train import train
from kdcache_cli.main import app
from support.small_disk import LimitedFiles
from support.small_job import CLASSES, SIZE, train_request, tree_bytes


@pytest.fixture(scope="module")
def run(job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with a moving average, both of whose checkpoints it keeps."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    settings = ("ema_decay=0.5", "keep_epochs=1")
    train(train_request(job.data, folder, cache=str(job.cache), val=job.data, epochs=2, overrides=settings), silent)
    return folder


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ResNet-18 of timm's, as a training exports it."""
    return exported(tmp_path_factory.mktemp("resnet"))


def exported(folder: Path, size: int = SIZE, **options: object) -> Path:
    network = create_student("resnet18", num_classes=CLASSES, size=size, seed=1, options=StudentOptions(**options))
    export_model(folder, network)
    return folder


@pytest.fixture(scope="module")
def images(job) -> torch.Tensor:
    """Five images of the data, as timm's evaluation transform prepares them for the student."""
    transform = timm.data.create_transform((3, SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1.0)
    return torch.stack([transform(image) for image in _pictures(job.data, 5)])


def _pictures(data: str, count: int) -> Iterator[Image.Image]:
    with tarfile.open(sorted(Path(data).glob("*.tar"))[0]) as shard:
        members = [member for member in shard if member.name.endswith((".jpg", ".png"))]
        for member in members[:count]:
            yield Image.open(BytesIO(shard.extractfile(member).read())).convert("RGB")


def logits(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(images)


def last_checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def test_timm_loads_the_export(run, images, tmp_path):
    report = kdcache.export(run, out=tmp_path / "out")
    assert (report.format, report.dtype, report.is_average, report.max_difference) == ("timm", "float32", True, 0.0)
    assert report.files == {name: len(data) for name, data in tree_bytes(tmp_path / "out").items()}
    assert set(report.files) == {"model.safetensors", "config.json", "README.md"}
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.equal(logits(loaded, images), logits(load_model(None, run).module, images))
    assert load_model(None, tmp_path / "out").card == load_model(None, run).card
    assert "On 3 images of noise its logits are the model's." in report.lines()


@pytest.mark.parametrize(("ema", "file"), [(True, "ema.safetensors"), (False, "model.safetensors")])
def test_the_average_and_the_weights_themselves_can_be_chosen(run, images, tmp_path, ema, file):
    report = kdcache.export(str(run), ema=ema, out=tmp_path / "out")
    assert report.is_average is ema
    wanted = logits(load_model(None, last_checkpoint(run) / file).module, images)
    assert torch.equal(logits(load_model(None, tmp_path / "out").module, images), wanted)


def test_an_epoch_that_the_run_kept_can_be_exported(run, images, tmp_path):
    kdcache.export(f"{run}@epoch=1", ema=False, out=tmp_path / "out")
    first = sorted((run / "checkpoints").glob("step-*"))[0]
    wanted = logits(load_model(None, first / "model.safetensors").module, images)
    assert torch.equal(logits(load_model(None, tmp_path / "out").module, images), wanted)
    assert "| epochs | 1 of 2 |" in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_is_named_after_run_and_format(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kdcache.export(f"{run}@epoch=2").folder == Path("exports/small-epoch-2-timm")
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == ["small-epoch-2-timm"]


def test_half_precision_halves_the_file(run, images, tmp_path):
    whole = kdcache.export(run, out=tmp_path / "whole")
    half = kdcache.export(run, dtype="float16", out=tmp_path / "half")
    assert half.files["model.safetensors"] < 0.6 * whole.files["model.safetensors"]
    assert 0 < half.max_difference < 0.1


def test_the_card_tells_what_the_run_was(run, tmp_path):
    kdcache.export(run, out=tmp_path / "out")
    identity = json.loads((run / "run_identity.json").read_text())
    card = HubCard.load(tmp_path / "out" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")
    assert {"knowledge-distillation", "timm"} <= set(card.data.tags)
    (score,) = card.data.eval_results
    assert f"| top-1 accuracy | {score.metric_value:.2%} |" in card.text
    for text in (identity["view_set"]["fingerprint"], identity["teacher"]["weights"], "fashion-mnist", "131"):
        assert text in card.text
    assert "| weights | moving average |" in card.text
    assert str(tmp_path) not in card.content


def test_names_of_others_are_no_markup_in_the_card(tmp_path):
    network = create_student("test_resnet", num_classes=2, size=SIZE, seed=1)
    export_model(tmp_path / "given", network, class_names=["a|b\n# c", "<b>"])
    kdcache.export(tmp_path / "given", out=tmp_path / "out")
    (line,) = [line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if "names of classes" in line]
    assert line == "| names of classes | a\\|b\\\\n\\# c, \\<b\\> |"


def test_torchvision_and_its_detectors_load_a_resnet(resnet, images, tmp_path):
    kdcache.export(resnet, format="torchvision", out=tmp_path / "out")
    state = torch.load(tmp_path / "out" / "model.pth", weights_only=True)
    theirs = torchvision.models.resnet18(num_classes=CLASSES).eval()
    theirs.load_state_dict(state)
    ours = load_model(None, resnet).module
    torch.testing.assert_close(logits(theirs, images), logits(ours, images), atol=1e-5, rtol=1e-5)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None).body.eval()
    body.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    with torch.inference_mode():
        torch.testing.assert_close(body(images)["3"], ours.forward_features(images), atol=1e-4, rtol=1e-4)


def test_the_models_that_torchvision_takes_have_the_same_tensors_in_both():
    """One of each family; each export compares them again."""
    for name in ("resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121"):
        assert name in TORCHVISION_MODELS
        with torch.device("meta"):
            ours, theirs = (kind(name).state_dict() for kind in (timm.create_model, torchvision.models.get_model))
        assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_onnxruntime_agrees_with_torch_on_images(run, images, tmp_path):
    report = kdcache.export(run, format="onnx", out=tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    network = load_model(None, run)
    for count in (1, 5):
        (found,) = session.run(None, {"images": images[:count].numpy()})
        wanted = logits(network.module, images[:count])
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts.items() >= (network.card.to_metadata() | {"format": "onnx"}).items()
    assert set(report.files) == {"model.onnx", "config.json", "README.md"}


def test_torchscript_runs_without_timm_and_has_the_facts_in_it(run, images, tmp_path):
    kdcache.export(run, format="torchscript", out=tmp_path / "out")
    facts = {"card.json": ""}
    program = torch.jit.load(tmp_path / "out" / "model.pt", _extra_files=facts)
    network = load_model(None, run)
    for count in (1, 5):
        wanted = logits(network.module, images[:count])
        torch.testing.assert_close(logits(program, images[:count]), wanted, atol=1e-5, rtol=1e-5)
    assert json.loads(facts["card.json"]) == network.card.to_metadata()


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("resnet18", {}, UsageError, "is the name of a model, and an export is made of a training: give a run folder"),
        ("RUN", {"format": "tflite"}, UsageError, "format is 'tflite': give timm, torchvision, onnx or torchscript"),
        ("RUN", {"dtype": "int8"}, UsageError, "dtype is 'int8': give float32 or float16"),
        (
            "RUN",
            {"format": "torchvision"},
            ModelError,
            "no model with the layers of test_resnet: choose another format",
        ),
        ("RUN/export", {"ema": True}, UsageError, "no checkpoints to choose from.*leave out ema=True"),
        ("RUN@epoch=7", {}, ModelError, r"keeps no checkpoint of epoch 7; it has those of 1, 2"),
        ("RUN/nothing", {}, ModelError, "There is no run folder"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_remedy(run, tmp_path, given, options, error, message):
    with pytest.raises(error, match=message):
        kdcache.export(given.replace("RUN", str(run)), out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_run_without_an_average_says_so(run, tmp_path):
    other = tmp_path / "other"
    step = other / "checkpoints" / last_checkpoint(run).name
    step.mkdir(parents=True)
    export_model(other / "export", load_model(None, run))
    for name in ("model.safetensors", "manifest.json"):
        (step / name).write_bytes((last_checkpoint(run) / name).read_bytes())
    manifest = json.loads((step / "manifest.json").read_text())
    del manifest["files"]["ema.safetensors"]
    (step / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"keeps no moving average.*leave out ema=True.*--set ema_decay"):
        kdcache.export(other, ema=True, out=tmp_path / "out")


def test_a_resnet_with_other_layers_than_torchvisions_is_refused(tmp_path):
    given = exported(tmp_path / "deep", kwargs={"stem_type": "deep"})
    with pytest.raises(ModelError, match="has other layers than torchvision's"):
        kdcache.export(given, format="torchvision", out=tmp_path / "out")


def test_a_resnet_that_computes_something_else_than_torchvisions_is_refused(tmp_path):
    """Its tensors are those of torchvision's; only running both tells, where there is more than one place to pool."""
    given = exported(tmp_path / "max", size=64, kwargs={"global_pool": "max"})
    with pytest.raises(ModelError, match=r"does not compute what resnet18 computes.*Nothing was written"):
        kdcache.export(given, format="torchvision", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_beyond_half_precision_are_refused(tmp_path):
    network = create_student("test_resnet", num_classes=2, size=SIZE, seed=1)
    with torch.no_grad():
        network.module.conv1[0].weight[0, 0, 0, 0] = 1e6
    export_model(tmp_path / "given", network)
    with pytest.raises(ModelError, match=r"conv1\.0\.weight .* beyond the range of float16: export it with"):
        kdcache.export(tmp_path / "given", dtype="float16", out=tmp_path / "out")


def test_what_stood_in_the_folder_is_replaced_as_a_whole_or_stays(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    kdcache.export(run, out=out)
    before = tree_bytes(out)
    with pytest.raises(
        UsageError, match=r"holds model\.safetensors of an export in another format, which would be lost"
    ):
        kdcache.export(run, format="torchscript", out=out)
    with monkeypatch.context() as patch:
        patch.setattr("kdcache.exporting.export.model_card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kdcache.export(run, ema=False, out=out)
    assert tree_bytes(out) == before
    kdcache.export(run, ema=False, out=out)
    assert tree_bytes(out)["model.safetensors"] != before["model.safetensors"]
    (out / "notes.txt").write_text("of the user's own")
    with pytest.raises(RunError, match=r"holds notes\.txt.* move it elsewhere"):
        kdcache.export(run, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_ends_every_format_with_a_sentence_and_leaves_what_was_there(format, run, resnet, tmp_path):
    """Also in the midst of what a library writes, of which torch's would abort the process."""
    given, out = resnet if format == "torchvision" else run, tmp_path / "out"
    report = kdcache.export(given, format=format, out=out)
    before = tree_bytes(out)
    for room in (0, 4096, min(size for size in report.files.values() if size > 4096) - 1):
        with (
            LimitedFiles(tmp_path).full(left=room),
            pytest.raises(RunError, match=rf"Cannot write {out}: {LimitedFiles.cause}.*{LimitedFiles.remedy}"),
        ):
            kdcache.export(given, format=format, out=out)
        assert tree_bytes(out) == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_another_process_writes_is_left_alone(run, tmp_path):
    remedy = "Wait."
    with folder_lock.hold_beside(tmp_path / "out", "The export", remedy, print), pytest.raises(FolderHeldError):
        kdcache.export(run, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_export_that_a_training_writes_is_left_to_it(run):
    before = tree_bytes(run)
    with pytest.raises(UsageError, match=r"what the training of this run writes itself.* give another out"):
        kdcache.export(run, out=run / "export")
    assert tree_bytes(run) == before


def test_the_command_prints_its_report(run, tmp_path):
    out = os.fspath(tmp_path / "out")
    told = CliRunner().invoke(app, ["export", str(run), "--no-ema", "--out", out, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) | {"files": 0, "max_difference": 0} == {
        "folder": out,
        "format": "timm",
        "dtype": "float32",
        "files": 0,
        "architecture": "test_resnet",
        "num_classes": CLASSES,
        "image_size": SIZE,
        "is_average": False,
        "max_difference": 0,
        "address": None,
    }
    said = CliRunner().invoke(app, ["export", str(run), "--out", out, "--dtype", "float16"])
    assert f"{out} holds test_resnet for timm: 4 classes, 32 pixels, float16, moving average" in said.stdout
