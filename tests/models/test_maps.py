"""Feature maps of timm models: which, of which shape, and at no cost to the model."""

import copy

import pytest
import timm
import torch

from kdcache.errors import ConfigError, ModelError
from kdcache.models.maps import WithMaps, choose_layers


def model(name, **settings):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **settings)


@pytest.mark.parametrize(
    ("name", "stages", "middle"),
    [
        ("test_resnet", (1, 2, 3, 4), 2),  # layer 0 is the stem
        ("test_efficientnet", (1, 2, 3, 4), 2),
        ("test_convnext", (0, 1, 2, 3), 1),
        ("vgg11", (2, 3, 4, 5), 3),  # six resolutions
        ("test_vit", (0, 2, 3, 5), 2),  # six layers of one resolution
        ("deit_tiny_patch16_224", (2, 5, 8, 11), 5),
    ],
)
def test_layers_are_chosen_by_custom(name, stages, middle):
    with torch.device("meta"):
        module = timm.create_model(name)
    assert choose_layers(module, "stages") == stages
    assert choose_layers(module, "middle") == (middle,)


def test_of_several_layers_of_a_resolution_the_last_is_taken():
    with torch.device("meta"):
        densenet = timm.create_model("densenet121")
    assert [layer["reduction"] for layer in densenet.feature_info] == [2, 4, 8, 16, 32]
    densenet.feature_info.append({"reduction": 32})
    assert choose_layers(densenet, "stages") == (1, 2, 3, 5)


def test_layers_may_be_numbered():
    resnet = model("test_resnet")
    assert choose_layers(resnet, (0, 3)) == (0, 3)
    assert choose_layers(resnet, (1, -1)) == (1, 4)


@pytest.mark.parametrize("wrong", [(), (5,), (-6,), (2, 1), (1, 1), (4, -1)])
def test_numbers_that_are_not_there_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"it has 5, 0 to 4"):
        choose_layers(model("test_resnet"), wrong)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"])
def test_the_logits_are_those_of_the_model_alone(name, training):
    size = 160 if name == "test_vit" else 64
    plain = model(name, drop_path_rate=0.2).train(training)
    watched = WithMaps(copy.deepcopy(plain), "stages")
    watched.train(training)
    images = torch.randn(3, 3, size, size)
    torch.manual_seed(1)
    expected = plain(images)
    torch.manual_seed(1)
    logits, maps = watched(images)
    assert torch.equal(logits, expected)
    assert tuple(level.shape[1:] for level in maps) == watched.shapes(size)
    assert all(torch.equal(*pair) for pair in zip(plain.buffers(), watched.buffers(), strict=True))
    heights = [level.shape[2] for level in maps]
    assert heights == sorted(heights, reverse=True)


def test_gradients_flow_through_maps():
    watched = WithMaps(model("test_resnet"), "stages")
    _, maps = watched(torch.randn(2, 3, 32, 32))
    sum(level.square().mean() for level in maps).backward()
    assert watched.module.conv1[0].weight.grad.abs().sum() > 0


def test_measuring_changes_nothing():
    watched = WithMaps(model("test_resnet", drop_rate=0.5), "middle")
    watched.module.layer1.eval()
    modes = [module.training for module in watched.modules()]
    before = copy.deepcopy(watched.state_dict())
    state = torch.get_rng_state()
    assert watched.shapes(64) == ((48, 8, 8),)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in watched.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in watched.state_dict().items())


def test_models_without_maps_are_refused():
    with pytest.raises(ModelError, match=r"no feature maps of Linear.*another model"):
        choose_layers(torch.nn.Linear(3, 3), "stages")
    with pytest.raises(ModelError, match="no feature maps at 64 pixels"):
        WithMaps(model("deit_tiny_patch16_224"), "stages").shapes(64)
