from dataclasses import replace

import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch.nn import functional as F

from kdcache.errors import ConfigError, UsageError
from kdcache.objectives.base import LossInputs, Objective, TeacherTargets, require
from kdcache.objectives.dkd import DKD
from kdcache.objectives.kd import kd
from kdcache.objectives.labels import binary_cross_entropy, cross_entropy, soft_labels
from kdcache.objectives.vanilla import VanillaKD
from support.batches import FixedTargets
from support.capabilities import CAPABILITIES

LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
TARGETS = FixedTargets(F.log_softmax(torch.randn(4, 5, generator=torch.Generator().manual_seed(2)), dim=-1))
LABELS = torch.tensor([[0, 1], [1, 0], [4, 2], [2, 4]])
WEIGHT = torch.tensor([0.9, 0.9, 0.2, 0.2])
SOFT = soft_labels(LABELS, WEIGHT, 5)


def inputs_of(logits=LOGITS, targets=TARGETS, labels=LABELS, weight=WEIGHT, **more):
    return LossInputs(logits, labels, weight, targets, **more)


def test_it_is_an_objective_of_targets():
    assert isinstance(VanillaKD(), Objective)
    assert isinstance(TARGETS, TeacherTargets)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"label_loss": "ce"}, lambda: cross_entropy(LOGITS, SOFT)),
        ({"label_loss": "bce"}, lambda: binary_cross_entropy(LOGITS, SOFT)),
        (
            {"label_loss": "bce", "bce_sum": True},
            lambda: binary_cross_entropy(LOGITS, SOFT, sum_classes=True),
        ),
        (
            {"label_loss": "ce", "smoothing": 0.1},
            lambda: cross_entropy(LOGITS, soft_labels(LABELS, WEIGHT, 5, 0.1)),
        ),
    ],
)
def test_the_total_is_the_weighted_sum_of_its_parts(temperature, settings, label):
    objective = VanillaKD(temperature=temperature, kd_weight=0.9, label_weight=0.1, **settings)
    losses = objective(inputs_of())
    distilled = kd(LOGITS, TARGETS.values, temperature)
    assert losses.parts == {"kd": distilled, "label": label()}
    torch.testing.assert_close(losses.total, 0.9 * distilled + 0.1 * label())
    assert tuple(losses.parts) == objective.parts


def test_a_part_without_weight_is_left_out():
    no_labels = torch.full((4, 2), -1)
    distilled = VanillaKD(label_loss="none")(inputs_of(labels=no_labels))
    assert torch.equal(distilled.total, kd(LOGITS, TARGETS.values))
    assert list(distilled.parts) == ["kd"]
    supervised = VanillaKD(kd_weight=0.0, label_loss="ce")(inputs_of(targets=None))
    assert torch.equal(supervised.total, cross_entropy(LOGITS, SOFT))
    assert list(supervised.parts) == ["label"]


def test_both_parts_teach():
    logits = LOGITS.clone().requires_grad_()
    gradients = []
    for objective in (VanillaKD(label_loss="none"), VanillaKD(kd_weight=0.0, label_loss="ce")):
        (gradient,) = torch.autograd.grad(objective(inputs_of(logits)).total, logits)
        gradients.append(gradient)
    (both,) = torch.autograd.grad(VanillaKD(label_loss="ce")(inputs_of(logits)).total, logits)
    torch.testing.assert_close(both, sum(gradients))


def test_it_is_gradient_of_float64_too():
    targets = FixedTargets(TARGETS.values.double())
    objective = VanillaKD(temperature=2.0, label_loss="bce")
    assert torch.autograd.gradcheck(
        lambda z: objective(inputs_of(z, targets, weight=WEIGHT.double())).total, LOGITS.double().requires_grad_()
    )


@pytest.mark.parametrize(
    ("settings", "teacher", "full", "labels"),
    [
        ({}, True, False, True),
        ({"temperature": 4.0}, True, True, True),
        ({"temperature": 4.0, "approximate": True}, True, False, True),
        ({"label_loss": "none"}, True, False, False),
        ({"label_weight": 0.0}, True, False, False),
        ({"kd_weight": 0.0, "temperature": 4.0}, False, False, True),
    ],
)
def test_it_knows_what_it_needs(settings, teacher, full, labels):
    needs = VanillaKD(**settings).needs
    assert (needs.teacher, bool(needs.full), bool(needs.labels)) == (teacher, full, labels)
    assert not needs.features
    assert not needs.history


def test_the_binary_target_may_have_a_threshold():
    objective = VanillaKD(kd_weight=0.0, label_loss="bce", bce_target_thresh=0.3)
    expected = BinaryCrossEntropy(target_threshold=0.3)(LOGITS, SOFT)
    torch.testing.assert_close(objective(inputs_of()).total, expected)
    assert not torch.equal(expected, BinaryCrossEntropy()(LOGITS, SOFT))


def test_without_targets_it_refuses_to_distil():
    with pytest.raises(UsageError, match="no targets of a teacher"):
        VanillaKD()(inputs_of(targets=None))


@pytest.mark.parametrize(
    ("needs", "there", "said"),
    [
        (VanillaKD().needs, {"targets": None}, "--supervised"),
        (VanillaKD(temperature=4.0).needs, {"targets": CAPABILITIES["topk"]}, "--targets full"),
        (
            VanillaKD().needs,
            {"targets": CAPABILITIES["topk"], "unlabelled": "the shards have no labels"},
            "label_loss=none",
        ),
        (
            VanillaKD().needs,
            {"targets": CAPABILITIES["topk"], "unlabelled": "no shard has labels"},
            "no shard has labels",
        ),
        (DKD().needs, {"targets": CAPABILITIES["full"], "num_classes": 2}, "fewer than 3 classes, and there are 2"),
    ],
)
def test_what_is_missing_is_refused_with_a_remedy(needs, there, said):
    with pytest.raises(UsageError, match=said):
        require(needs, **{"unlabelled": "", "num_classes": 5} | there)


def test_what_is_there_is_accepted():
    require(VanillaKD().needs, targets=CAPABILITIES["topk"], unlabelled="", num_classes=1)
    require(VanillaKD(temperature=4.0).needs, targets=CAPABILITIES["full"], unlabelled="", num_classes=5)
    require(VanillaKD(temperature=4.0, kd_weight=0.0).needs, targets=None, unlabelled="", num_classes=5)
    require(
        VanillaKD(label_loss="none").needs,
        targets=CAPABILITIES["topk"],
        unlabelled="the shards have no labels",
        num_classes=5,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"temperature": float("nan")},
        {"kd_weight": -1},
        {"label_weight": -0.5},
        {"smoothing": 1.0},
        {"kd_weight": 0, "label_loss": "none"},
        {"kd_weight": 0, "label_weight": 0},
        {"label_weight": float("nan")},
        {"bce_target_thresh": 1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        replace(
            VanillaKD(),
            **{name: value if isinstance(value, str) else float(value) for name, value in wrong.items()},
        )
