"""Operations are chosen, and their arguments drawn, as timm's RandAugment and AutoAugment draw them."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import (
    RandAugment,
    auto_augment_transform,
    rand_augment_ops,
    rand_augment_transform,
)
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, autoaugment

from kdcache.views.operations import Operation
from kdcache.views.policy import Policy
from support.distributions import counts_differ, differ
from support.plans import plan_of
from support.timm_draws import WARPS, Draws, as_draws, operation_of, record

COUNT = 12_000


def ours(config, interpolation="random", count=3 * COUNT, reference_size=224):
    plan = plan_of(
        Policy(auto_augment=config, interpolation=interpolation, reference_size=reference_size), count, seed=1, view=5
    )
    return Draws(plan.op, plan.magnitude, plan.op_cubic)


def timms(config, **hparams):
    random.seed(0)
    np.random.seed(0)
    transform = rand_augment_transform if config.startswith("rand") else auto_augment_transform
    return record(transform(config, {"img_mean": (124, 116, 104), **hparams}), COUNT)


def differences(a, b):
    """In what two samples of draws differ: by layer, by pair of layers, by operation."""
    assert a.op.shape[1] == b.op.shape[1]
    found = []
    for layer in range(a.op.shape[1]):
        if counts_differ(a.op[:, layer], b.op[:, layer]):
            found.append(f"operations of layer {layer}")
    for layer in range(1, a.op.shape[1]):
        pairs = [draws.op[:, layer - 1].astype(int) * 32 + draws.op[:, layer] for draws in (a, b)]
        if counts_differ(*pairs):
            found.append(f"operations of layers {layer - 1} and {layer}")
    for operation in np.unique(np.concatenate([a.op, b.op])):
        if differ(a.magnitude[a.op == operation], b.magnitude[b.op == operation]):
            found.append(f"arguments of {Operation(operation).name}")
    warped = [np.isin(draws.op, WARPS) for draws in (a, b)]
    if warped[0].any() and counts_differ(a.cubic[warped[0]], b.cubic[warped[1]]):
        found.append("interpolation")
    assert not a.cubic[~warped[0]].any()
    return found


@pytest.mark.parametrize(
    "config",
    [
        "rand-m7-mstd0.5-inc1",
        "rand-m9-mstd0.5",
        "rand-m9-n3-p0.8-mstd2-mmax12-inc1",
        "rand-m15",
        "rand-n1-m8-p1-mstd101-inc1",
        "rand-mstd1-tweights-p0.9",
        "rand-m6-n3-t3aw-p0.7-mstd1",
        "rand-m5-t3a-n2-mstd0.5",
        "original",
        "originalr-mstd0.5",
        "v0-mstd0.5",
        "v0r",
        "3a",
        "3a-mstd200",
    ],
)
def test_draws_are_distributed_as_timms(config):
    assert differences(ours(config), timms(config)) == []


def test_the_former_weights_are_drawn_as_timm_drew_them():
    """timm 0.6's `_RAND_CHOICE_WEIGHTS_0`, in the order of its transforms."""
    weights = {
        **{"Rotate": 0.3, "ShearX": 0.2, "ShearY": 0.2, "TranslateXRel": 0.1, "TranslateYRel": 0.1, "Color": 0.025},
        **{"Sharpness": 0.025, "AutoContrast": 0.025, "Solarize": 0.005, "SolarizeAdd": 0.005, "Contrast": 0.005},
        **{"Brightness": 0.005, "Equalize": 0.005, "Posterize": 0.0, "Invert": 0.0},
    }
    np.random.seed(0)
    random.seed(0)
    operations = rand_augment_ops(magnitude=9, prob=0.5, transforms=list(weights))
    theirs = record(RandAugment(operations, 3, choice_weights=list(weights.values())), COUNT)
    assert differences(ours("rand-m9-n3-w0"), theirs) == []
    assert differences(ours("rand-m9-n3-tweights"), theirs)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_one_interpolation_is_used_where_one_is_asked_for(interpolation):
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    theirs = timms("rand-m7-inc1", interpolation=filters[interpolation])
    assert differences(ours("rand-m7-inc1", interpolation), theirs) == []
    assert differences(ours("rand-m7-inc1", "random"), theirs) == ["interpolation"]


def without_negation(draws):
    return dataclasses.replace(draws, magnitude=np.abs(draws.magnitude))


def with_replaced_pairs(draws):
    """The second layers of other images: each layer for itself stays as it was."""
    return dataclasses.replace(
        draws,
        op=np.stack([draws.op[:, 0], np.roll(draws.op[:, 1], 1)], axis=1),
        magnitude=np.stack([draws.magnitude[:, 0], np.roll(draws.magnitude[:, 1], 1)], axis=1),
        cubic=np.stack([draws.cubic[:, 0], np.roll(draws.cubic[:, 1], 1)], axis=1),
    )


def test_what_is_drawn_wrongly_would_show():
    """The power of the tests above: each of these is refused, for the reason that it should be."""
    theirs = timms("rand-m7-mstd0.5-inc1")
    for wrong, reason in (
        ("rand-m7-mstd0.7-inc1", "arguments of SOLARIZE"),
        ("rand-m8-mstd0.5-inc1", "arguments of SOLARIZE"),
        ("rand-m7-mstd0.5-inc1-mmax7", "arguments of SHEAR_X"),
        ("rand-m7-mstd101-inc1", "arguments of BRIGHTNESS"),
        ("rand-m7-mstd0.5", "arguments of POSTERIZE"),
        ("rand-m7-mstd0.5-inc1-p0.53", "operations of layer 0"),
        ("rand-m7-mstd0.5-inc1-tweights", "operations of layer 1"),
    ):
        found = differences(ours(wrong), theirs)
        assert any(each.startswith(reason) for each in found), (wrong, found)
    found = differences(without_negation(ours("rand-m7-mstd0.5-inc1")), theirs)
    signed = ("ROTATE", "SHEAR_X", "SHEAR_Y", "TRANSLATE_X", "TRANSLATE_Y")
    assert found == [f"arguments of {name}" for name in signed]

    theirs = timms("v0")
    assert differences(ours("v0r"), theirs) == ["arguments of POSTERIZE"]
    assert "operations of layers 0 and 1" in differences(with_replaced_pairs(ours("v0")), theirs)


def torchvisions(size, count, monkeypatch):
    """Draws of torchvision's AutoAugment(CIFAR10) on images of `size`, in the terms of `Operation`."""
    rows, drawn = [], []
    arguments = {
        **dict.fromkeys(("ShearX", "ShearY", "Rotate"), lambda magnitude: magnitude),
        **dict.fromkeys(("TranslateX", "TranslateY"), lambda magnitude: int(magnitude) / size),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), lambda magnitude: 1.0 + magnitude),
        **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), lambda magnitude: 0.0),
        "Posterize": lambda magnitude: int(magnitude),
        "Solarize": lambda magnitude: np.ceil(magnitude),
    }

    def written_down(image, name, magnitude, **_):
        drawn.append((operation_of(name), arguments[name](magnitude), False))
        return image

    monkeypatch.setattr(autoaugment, "_apply_op", written_down)
    transform, image = AutoAugment(AutoAugmentPolicy.CIFAR10), Image.new("RGB", (size, size))
    chosen = []
    get_params = transform.get_params
    transform.get_params = lambda number: chosen.append(get_params(number)) or chosen[-1]
    torch.manual_seed(0)
    for _ in range(count):
        transform(image)
        sequence, probs, _ = chosen.pop()
        applied = [float(prob) <= step[1] for prob, step in zip(probs, transform.policies[sequence], strict=True)]
        rows += [drawn.pop(0) if each else (0, 0.0, False) for each in applied]
    return as_draws(rows, count)


@pytest.mark.parametrize("size", [32, 331])
def test_cifar10_is_drawn_as_torchvisions(size, monkeypatch):
    theirs = torchvisions(size, COUNT // 2, monkeypatch)
    mine = ours("cifar10", "bilinear", reference_size=size)
    for draws in (mine, theirs):  # torch.linspace works in float32
        draws.magnitude = (draws.magnitude + 1e-6).round(4)
    assert differences(mine, theirs) == []
    for operation in np.unique(theirs.op):
        values = [np.unique(draws.magnitude[draws.op == operation]) for draws in (mine, theirs)]
        assert np.array_equal(*values), Operation(operation).name
    assert "arguments of ROTATE" in differences(without_negation(mine), theirs)
