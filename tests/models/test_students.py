import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.errors import ModelError
from kdcache.models.network import Normaliser
from kdcache.models.students import create_student
from kdcache.models.weights import weight_hash


def hash_of(seed, name="test_vit", **changes):
    return weight_hash(create_student(name, num_classes=4, size=32, seed=seed, **changes).module.state_dict())


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
def test_a_student_takes_its_size_and_answers_for_its_classes(name, size):
    student = create_student(name, num_classes=4, size=size, seed=0, drop_path=0.1)
    assert student.module.training
    assert (student.card.size, student.card.num_classes, student.card.architecture) == (size, 4, name)
    assert student.module(torch.zeros(2, 3, size, size)).shape == (2, 4)


def test_short_names_and_tags_stand_for_the_architecture():
    assert create_student("vit_t", num_classes=2, size=32, seed=0).card.architecture == "vit_tiny_patch16_224"
    tagged = create_student("test_resnet.r160_in1k", num_classes=2, size=32, seed=0)
    assert tagged.card.architecture == "test_resnet"


def test_drop_path_is_on_in_training_only():
    student = create_student("test_vit", num_classes=4, size=32, seed=0, drop_path=0.5).module
    seen = torch.randn(8, 3, 32, 32)
    assert not torch.equal(student(seen), student(seen))
    student.eval()
    assert torch.equal(student(seen), student(seen))


def test_the_evaluation_transform_can_be_chosen():
    plain = create_student("test_vit", num_classes=4, size=32, seed=0).card
    chosen = create_student("test_vit", num_classes=4, size=32, seed=0, crop_pct=1.0, interpolation="bilinear").card
    assert (plain.crop_pct, plain.interpolation) == (0.95, "bicubic")
    assert (chosen.crop_pct, chosen.interpolation) == (1.0, "bilinear")


def test_further_arguments_reach_the_model_and_its_card():
    student = create_student("test_vit", num_classes=4, size=32, seed=0, kwargs={"depth": 1})
    assert len(student.module.blocks) == 1
    assert student.card.model_args == {"img_size": 32, "depth": 1}


def test_arguments_that_the_model_does_not_take_are_refused():
    with pytest.raises(ModelError, match="test_vit cannot be built"):
        create_student("test_vit", num_classes=4, size=32, seed=0, kwargs={"no_such": 1})


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "pretrained_cfg_overlay", "cache_dir"])
def test_arguments_that_make_timm_read_a_file_are_refused(argument):
    """timm unpickles it, and with it runs whatever code somebody put into it."""
    with pytest.raises(ModelError, match=rf"student\.kwargs.*{argument}"):
        create_student("test_vit", num_classes=4, size=32, seed=0, kwargs={argument: "x"})


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
    assert second.names == ["sub", "div_"]
    assert set(first.names) > set(second.names)
    there = student.normalise(seen.to("meta"))
    assert there.device.type == "meta"
