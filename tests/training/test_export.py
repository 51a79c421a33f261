import json

import pytest
import timm
import torch
from safetensors import safe_open

from kdcache.errors import RunError
from kdcache.models.load import load_model
from kdcache.models.students import StudentOptions, create_student
from kdcache.training.export import export_model

MODELS = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet")


def exported(folder, name="test_vit", **options):
    student = create_student(name, num_classes=6, size=32, seed=4, options=StudentOptions(drop_path=0.1, crop_pct=0.9))
    export_model(folder, student, **options)
    student.module.eval()
    return student


def logits_of(module):
    with torch.inference_mode():
        return module(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32))


@pytest.mark.parametrize("name", MODELS)
def test_timm_loads_the_weights_by_their_path(tmp_path, name):
    student = exported(tmp_path / "export", name)
    file = str(tmp_path / "export" / "model.safetensors")
    loaded = timm.create_model(name, num_classes=6, checkpoint_path=file, **student.card.model_args).eval()
    assert torch.equal(logits_of(loaded), logits_of(student.module))


@pytest.mark.parametrize("name", MODELS)
def test_timm_loads_the_folder(tmp_path, name):
    student = exported(tmp_path / "export", name, class_names=list("abcdef"))
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    assert torch.equal(logits_of(loaded), logits_of(student.module))
    data = timm.data.resolve_model_data_config(loaded)
    card = student.card
    assert tuple(data["input_size"]) == (3, 32, 32)
    assert (data["interpolation"], data["crop_pct"]) == (card.interpolation, 0.9)
    assert (tuple(data["mean"]), tuple(data["std"])) == (card.mean, card.std)
    assert loaded.pretrained_cfg["label_names"] == list("abcdef")


@pytest.mark.parametrize("name", MODELS)
def test_the_file_alone_is_enough_for_kdcache(tmp_path, name):
    student = exported(tmp_path / "export", name)
    loaded = load_model(None, tmp_path / "export" / "model.safetensors")
    assert loaded.card == student.card
    assert torch.equal(logits_of(loaded.module), logits_of(student.module))


def test_arguments_of_the_architecture_are_kept(tmp_path):
    student = create_student("test_vit", num_classes=6, size=32, seed=4, options=StudentOptions(kwargs={"depth": 2}))
    export_model(tmp_path / "export", student)
    student.module.eval()
    for loaded in (
        timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval(),
        load_model("test_vit", tmp_path).module,
    ):
        assert len(loaded.blocks) == 2
        assert torch.equal(logits_of(loaded), logits_of(student.module))


def test_the_folder_can_be_adapted_by_timm_to_other_classes(tmp_path):
    exported(tmp_path / "export", "test_resnet")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True, num_classes=3)
    assert logits_of(loaded.eval()).shape == (2, 3)


def test_half_precision_takes_half_the_room_and_is_close(tmp_path):
    student = exported(tmp_path / "whole")
    exported(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_model(None, tmp_path / "half").module
    assert all(part.dtype == torch.float32 for part in loaded.parameters())
    torch.testing.assert_close(logits_of(loaded), logits_of(student.module), atol=1e-2, rtol=0)


def test_counters_stay_whole_numbers_in_half_precision(tmp_path):
    exported(tmp_path / "export", "test_resnet", dtype=torch.float16)
    with safe_open(tmp_path / "export" / "model.safetensors", framework="pt") as file:
        types = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - no mapping
    assert {kind for name, kind in types.items() if name.endswith("num_batches_tracked")} == {torch.int64}
    assert {kind for name, kind in types.items() if not name.endswith("num_batches_tracked")} == {torch.float16}


def test_the_moving_average_can_be_exported_in_the_models_place(tmp_path):
    student = create_student("test_resnet", num_classes=6, size=32, seed=4)
    average = {name: torch.zeros_like(tensor) for name, tensor in student.module.state_dict().items()}
    export_model(tmp_path / "export", student, tensors=average)
    assert not any(part.any() for part in load_model(None, tmp_path / "export").module.state_dict().values())


def test_an_export_takes_the_place_of_the_one_before_as_a_whole(tmp_path):
    exported(tmp_path / "export", "test_resnet")
    (tmp_path / "export" / "notes.txt").write_text("of the user's own")
    with pytest.raises(RunError, match=r"holds notes\.txt.* move it elsewhere"):
        exported(tmp_path / "export", "test_vit")
    (tmp_path / "export" / "notes.txt").unlink()
    exported(tmp_path / "export", "test_vit")
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((tmp_path / "export" / "config.json").read_text())["architecture"] == "test_vit"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        exported(tmp_path / "file" / "export")
