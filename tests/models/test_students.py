import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.errors import ModelError
from kdcache.models.network import Normaliser
from kdcache.models.students import StudentOptions, create_student, load_initial_weights
from kdcache.models.weights import weight_hash
from kdcache.training.export import export_model


def hash_of(seed, name="test_vit", **changes):
    return weight_hash(
        create_student(name, num_classes=4, size=32, seed=seed, options=StudentOptions(**changes)).module.state_dict()
    )


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    first = hash_of(3, name)
    torch.manual_seed(2)
    torch.rand(5)
    assert hash_of(3, name) == first
    assert hash_of(4, name) != first


def test_making_a_student_leaves_the_random_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    create_student("test_resnet", num_classes=4, size=32, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("size", [32, 64])
def test_a_student_takes_its_size_and_has_its_classes(name, size):
    student = create_student(name, num_classes=4, size=size, seed=0, options=StudentOptions(drop_path=0.1))
    assert student.module.training
    assert (student.card.size, student.card.num_classes, student.card.architecture) == (size, 4, name)
    assert student.module(torch.zeros(2, 3, size, size)).shape == (2, 4)


def test_short_names_and_tags_stand_for_the_architecture():
    assert create_student("vit_t", num_classes=2, size=32, seed=0).card.architecture == "vit_tiny_patch16_224"
    tagged = create_student("test_resnet.r160_in1k", num_classes=2, size=32, seed=0)
    assert tagged.card.architecture == "test_resnet"


def test_drop_path_is_on_in_training_only():
    student = create_student("test_vit", num_classes=4, size=32, seed=0, options=StudentOptions(drop_path=0.5)).module
    seen = torch.randn(8, 3, 32, 32)
    assert not torch.equal(student(seen), student(seen))
    student.eval()
    assert torch.equal(student(seen), student(seen))


def test_the_evaluation_transform_can_be_chosen():
    plain = create_student("test_vit", num_classes=4, size=32, seed=0).card
    chosen = create_student(
        "test_vit", num_classes=4, size=32, seed=0, options=StudentOptions(crop_pct=1.0, interpolation="bilinear")
    ).card
    assert (plain.crop_pct, plain.interpolation) == (0.95, "bicubic")
    assert (chosen.crop_pct, chosen.interpolation) == (1.0, "bilinear")


def test_further_arguments_reach_the_model_and_its_card():
    student = create_student("test_vit", num_classes=4, size=32, seed=0, options=StudentOptions(kwargs={"depth": 1}))
    assert len(student.module.blocks) == 1
    assert student.card.model_args == {"img_size": 32, "depth": 1}


def test_arguments_that_the_model_does_not_take_are_refused():
    with pytest.raises(ModelError, match="test_vit cannot be built"):
        create_student("test_vit", num_classes=4, size=32, seed=0, options=StudentOptions(kwargs={"no_such": 1}))


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "pretrained_cfg_overlay", "cache_dir"])
def test_arguments_that_make_timm_read_a_file_are_refused(argument):
    """timm unpickles it, and with it runs whatever code somebody put into it."""
    with pytest.raises(ModelError, match=rf"student\.kwargs.*{argument}"):
        create_student("test_vit", num_classes=4, size=32, seed=0, options=StudentOptions(kwargs={argument: "x"}))


def test_a_model_that_does_not_fit_into_memory_is_told_as_that(monkeypatch):
    # 2^50 bytes are refused at once by torch's own allocator, in its own words, on any machine.
    monkeypatch.setattr("timm.create_model", lambda *_, **__: torch.empty(2**50, dtype=torch.uint8))
    with pytest.raises(ModelError, match=r"8,000,000 classes does not fit into .* memory.*highest label") as refused:
        create_student("test_vit", num_classes=8_000_000, size=32, seed=0)
    assert "student." not in str(refused.value)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 8), ("test_maxvit", 40)])
def test_a_size_that_the_model_does_not_take_is_refused(name, size):
    with pytest.raises(ModelError, match=f"{size}x{size}"):
        create_student(name, num_classes=4, size=size, seed=0)


def test_an_unknown_student_is_refused_with_the_nearest():
    with pytest.raises(ModelError, match="resnet50"):
        create_student("resnet50x", num_classes=4, size=32, seed=0)


def test_pixels_are_normalised_as_by_timms_loader():
    student = create_student("test_efficientnet", num_classes=4, size=32, seed=0)
    seen = torch.rand(3, 3, 8, 8) * 255
    mean = torch.tensor([value * 255 for value in student.card.mean]).view(1, 3, 1, 1)
    std = torch.tensor([value * 255 for value in student.card.std]).view(1, 3, 1, 1)
    assert torch.equal(student.normalise(seen), seen.clone().sub_(mean).div_(std))
    assert Normaliser((0.5, 1.0), (0.5, 0.25))(torch.full((1, 2, 1, 1), 255.0)).flatten().tolist() == [1.0, 0.0]


class Called(TorchDispatchMode):
    """Keeps the names of the operations that torch is asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_mean_and_deviation_go_to_a_device_once():
    """A copy at each step would make the host wait for a GPU."""
    student = create_student("test_efficientnet", num_classes=4, size=32, seed=0)
    seen = torch.rand(3, 3, 8, 8)
    with Called() as first:
        once = student.normalise(seen)
    with Called() as second:
        again = student.normalise(seen)
    assert torch.equal(once, again)
    assert "_to_copy" in first.names
    assert "_to_copy" not in second.names
    assert set(first.names) > set(second.names)
    there = student.normalise(seen.to("meta"))
    assert there.device.type == "meta"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An export of a model of three classes."""
    network = create_student("test_resnet", num_classes=3, size=32, seed=9)
    network = dataclasses.replace(network, card=dataclasses.replace(network.card, mean=(0.1, 0.2, 0.3), crop_pct=0.5))
    return export_model(tmp_path_factory.mktemp("trained") / "export", network), network.module.state_dict()


def begun(source, classes, name="test_resnet"):
    initial = load_initial_weights(name, str(source), size=32)
    student = create_student(
        name, num_classes=classes, size=32, seed=0, initial=initial, options=StudentOptions(interpolation="bilinear")
    )
    assert (student.card.mean, student.card.crop_pct) == ((0.1, 0.2, 0.3), 0.5), "images are prepared as they were"
    assert (student.card.interpolation, student.card.num_classes) == ("bilinear", classes)
    return student.module.state_dict(), initial


def test_a_student_begins_from_weights_as_they_are_where_classes_agree(trained):
    file, weights = trained
    for source in (file, file.parent, f"local-dir:{file.parent}"):
        found, initial = begun(source, 3)
        assert all(torch.equal(found[name], weights[name]) for name in weights)
        assert initial.hash == weight_hash(weights)


def test_another_number_of_classes_draws_the_classifier_alone(trained):
    file, weights = trained
    found, _ = begun(file, 5)
    drawn = create_student("test_resnet", num_classes=5, size=32, seed=0).module.state_dict()
    for name in weights:
        assert torch.equal(found[name], (drawn if name.startswith("fc.") else weights)[name]), name


def test_weights_of_another_model_or_of_none_are_refused(trained, tmp_path):
    file, _ = trained
    with pytest.raises(ModelError, match="test_resnet, not of test_vit"):
        begun(file, 3, "test_vit")
    with pytest.raises(ModelError, match=f"no weights at {tmp_path / 'none'}"):
        begun(tmp_path / "none", 3)
    with pytest.raises(ModelError, match="resnet50x"):
        begun("resnet50x", 3)
    initial = load_initial_weights("test_resnet", str(file), size=32)
    narrow = {"channels": [16, 48, 48, 96]}
    with pytest.raises(ModelError, match=r"does not fit test_resnet as the student is built .* is missing"):
        create_student(
            "test_resnet", num_classes=3, size=32, seed=0, options=StudentOptions(kwargs=narrow), initial=initial
        )


def test_dropout_before_the_classifier():
    student = create_student("test_resnet", num_classes=4, size=32, seed=0, options=StudentOptions(drop=0.5)).module
    assert student.drop_rate == 0.5


def test_the_way_to_begin_from_a_file_is_told_to_who_tries_another():
    with pytest.raises(ModelError, match=r"Give student\.weights, which is read without running anything"):
        create_student(
            "test_vit", num_classes=4, size=32, seed=0, options=StudentOptions(kwargs={"checkpoint_path": "x"})
        )
