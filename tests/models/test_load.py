import dataclasses
import errno
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdcache.errors import ModelError
from kdcache.models.load import load_model
from kdcache.models.students import StudentOptions, create_student
from kdcache.models.weights import weight_hash
from kdcache.training.export import export_model


@pytest.fixture
def weights(tmp_path):
    """A state dict of a test_resnet with 7 classes, as timm would save it."""
    model = timm.create_model("test_resnet", num_classes=7)
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    return model.eval(), file


def logits_of(module, size=64):
    with torch.inference_mode():
        return module(torch.linspace(-1, 1, 2 * 3 * size * size).reshape(2, 3, size, size))


def test_weights_of_a_file_are_loaded_with_the_classes_that_they_have(weights):
    model, file = weights
    network = load_model("test_resnet", file)
    assert network.card.num_classes == 7
    assert torch.equal(logits_of(network.module), logits_of(model))
    assert not network.module.training
    assert not any(part.requires_grad for part in network.module.parameters())


def test_the_preprocessing_is_that_of_the_named_weights(weights):
    card = load_model("test_resnet", weights[1]).card
    cfg = timm.get_pretrained_cfg("test_resnet")
    assert (card.mean, card.std, card.input_size) == (cfg.mean, cfg.std, cfg.input_size)
    assert card.interpolation == cfg.interpolation


def test_half_precision_weights_become_float32_and_keep_their_hash(weights, tmp_path):
    model, _ = weights
    half = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    wide = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    save_file(half, tmp_path / "half.safetensors")
    torch.save(wide, tmp_path / "wide.pth")
    of_half = load_model("test_resnet", tmp_path / "half.safetensors").module
    of_wide = load_model("test_resnet", tmp_path / "wide.pth").module
    assert all(part.dtype == torch.float32 for part in of_half.parameters())
    assert weight_hash(of_half.state_dict()) == weight_hash(of_wide.state_dict())
    assert torch.equal(logits_of(of_half), logits_of(of_wide))


def test_a_run_folder_needs_no_name(tmp_path):
    student = create_student(
        "test_vit", num_classes=5, size=32, seed=1, options=StudentOptions(crop_pct=1.0, interpolation="bilinear")
    )
    export_model(tmp_path / "export", student)
    network = load_model(None, tmp_path)
    assert network.card == student.card
    assert torch.equal(logits_of(network.module, 32), logits_of(student.module.eval(), 32))


def test_weights_without_a_description_need_a_name(weights):
    with pytest.raises(ModelError, match="which model"):
        load_model(None, weights[1])
    with pytest.raises(ModelError, match="Neither"):
        load_model(None)


def test_a_name_that_contradicts_the_file_is_refused(tmp_path):
    export_model(tmp_path / "export", create_student("test_vit", num_classes=5, size=32, seed=1))
    with pytest.raises(ModelError, match="weights of test_vit, not of test_resnet"):
        load_model("test_resnet", tmp_path)


def test_position_embeddings_are_resampled_for_another_size(tmp_path):
    student = create_student("test_vit", num_classes=5, size=32, seed=1)
    export_model(tmp_path / "export", student)
    network = load_model("test_vit", tmp_path, size=64)
    assert network.card.size == 64
    assert logits_of(network.module, 64).shape == (2, 5)
    own = load_model("test_vit", tmp_path, size=32)
    assert torch.equal(logits_of(own.module, 32), logits_of(student.module.eval(), 32))


def test_a_size_that_the_model_does_not_take_is_refused(tmp_path):
    save_file(timm.create_model("test_maxvit", num_classes=5).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="100x100"):
        load_model("test_maxvit", tmp_path / "w.safetensors", size=100)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "extra has no place"),
        (lambda t: t.update({"conv1.0.weight": torch.zeros(1, 3, 3, 3)}), "conv1.0.weight is"),
        (lambda t: t.update({"fc.bias": torch.zeros(8)}), r"fc.bias is \[8\] and should be \[7\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_name_of_the_tensor(weights, tmp_path, change, said):
    tensors = dict(weights[0].state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=said):
        load_model("test_resnet", tmp_path / "other.safetensors")


def test_weights_of_another_model_are_refused_with_few_names(weights):
    with pytest.raises(ModelError, match=r"do not fit test_vit .* and \d+ more"):
        load_model("test_vit", weights[1])


def test_a_model_without_a_classifier_is_refused(tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"classifier|fc\.weight is missing"):
        load_model("test_resnet", tmp_path / "w.safetensors")


def test_loading_leaves_the_random_state_alone(weights):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_model("test_resnet", weights[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_no_second_copy_of_the_weights_stays_with_the_model(weights):
    assert "state_dict" not in load_model("test_resnet", weights[1]).module.pretrained_cfg


def test_without_weights_and_without_a_hub_one_sentence_says_what_to_do():
    with pytest.raises(ModelError, match="--weights FILE") as caught:
        load_model("resnet50")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left .* whole: make room"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "whole: make room or have the quota raised"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), r"whole: raise the limit on the size of a file"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "whole: check the disk"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), r"Read-only .*\. Use a folder that you can write to"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), r"denied\. Use a folder that you can write to"),
        (RuntimeError("Data processing error: I/O error (os error 28)"), "No space left .* whole: make room"),
    ],
)
@pytest.mark.parametrize("is_cause", [False, True])
def test_a_download_that_cannot_be_written_ends_as_every_writer_does(refusal, remedy, is_cause, monkeypatch):
    def download(*_, **__):
        if is_cause:
            raise RuntimeError("while downloading") from refusal
        raise refusal

    monkeypatch.setattr("kdcache.models.load.find_pretrained", lambda name: None)
    monkeypatch.setattr("kdcache.models.load.timm.create_model", download)
    with pytest.raises(ModelError, match=rf"^Cannot write the pretrained weights of resnet18\S* to .*hub: .*{remedy}"):
        load_model("resnet18")


@pytest.mark.parametrize(
    "error", [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError("timed out"), KeyError(1)]
)
def test_a_download_that_fails_otherwise_asks_for_a_file(error, monkeypatch):
    def download(*_, **__):
        raise error

    monkeypatch.setattr("kdcache.models.load.find_pretrained", lambda name: None)
    monkeypatch.setattr("kdcache.models.load.timm.create_model", download)
    with pytest.raises(ModelError, match=r"could not be had .*--weights FILE"):
        load_model("resnet18")


def test_a_model_without_pretrained_weights_is_refused():
    name = next(name for name in timm.list_models("vit_*") if not timm.models.is_model_pretrained(name))
    with pytest.raises(ModelError, match="no pretrained weights"):
        load_model(name)


def test_weights_in_the_hubs_cache_need_no_hub(weights, monkeypatch):
    model, file = weights
    monkeypatch.setattr("kdcache.models.hub.try_to_load_from_cache", lambda *_: str(file))
    assert torch.equal(logits_of(load_model("test_resnet").module), logits_of(model))


def test_a_hub_that_cannot_be_reached_is_given_up_at_once(tmp_path):
    """In a process of its own, where the hub's client is not told to stay offline and its address leads nowhere."""
    code = (
        "import sys\n"
        "from kdcache.errors import ModelError\n"
        "from kdcache.models.load import load_model\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        load_model(name)\n"
        "    except ModelError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "beitv2_b", "hf-hub:timm/resnet18.a1_in1k"],
        env={"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("--weights FILE") == len(done.stdout.splitlines()) == 2
    assert "Retrying" not in done.stderr


def test_a_description_of_more_classes_than_the_weights_have_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    """Else a header of one kilobyte could ask for all of the memory."""
    student = create_student("test_resnet", num_classes=5, size=32, seed=1)
    card = dataclasses.replace(student.card, num_classes=8_000_000)
    save_file(student.module.state_dict(), tmp_path / "w.safetensors", card.to_metadata())
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(ModelError, match=r"a model of 8,000,000 classes, and no tensor in it has so many rows"):
        load_model(None, tmp_path / "w.safetensors")
