from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from kdcache.errors import ConfigError, UsageError
from kdcache.objectives.base import Answers, Needs, Objective, require
from kdcache.objectives.kd import kd
from kdcache.objectives.labels import binary_cross_entropy, cross_entropy, soft_labels
from kdcache.objectives.vanilla import VanillaKD


@dataclass(frozen=True)
class Said:
    """A teacher's answers, all of them."""

    values: torch.Tensor

    def log_probs(self, num_classes, temperature=1.0):
        assert num_classes == self.values.shape[1]
        assert temperature == 1.0
        return self.values


LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
ANSWERS = Said(F.log_softmax(torch.randn(4, 5, generator=torch.Generator().manual_seed(2)), dim=-1))
LABELS = torch.tensor([[0, 1], [1, 0], [4, 2], [2, 4]])
WEIGHT = torch.tensor([0.9, 0.9, 0.2, 0.2])
SOFT = soft_labels(LABELS, WEIGHT, 5)


def test_it_is_an_objective_of_answers():
    assert isinstance(VanillaKD(), Objective)
    assert isinstance(ANSWERS, Answers)


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
    losses = objective(LOGITS, ANSWERS, LABELS, WEIGHT)
    distilled = kd(LOGITS, ANSWERS.values, temperature)
    assert losses.parts == {"kd": distilled, "label": label()}
    torch.testing.assert_close(losses.total, 0.9 * distilled + 0.1 * label())
    assert tuple(losses.parts) == objective.parts


def test_a_part_without_weight_is_left_out():
    no_labels = torch.full((4, 2), -1)
    distilled = VanillaKD(label_loss="none")(LOGITS, ANSWERS, no_labels, WEIGHT)
    assert torch.equal(distilled.total, kd(LOGITS, ANSWERS.values))
    assert list(distilled.parts) == ["kd"]
    supervised = VanillaKD(kd_weight=0.0, label_loss="ce")(LOGITS, None, LABELS, WEIGHT)
    assert torch.equal(supervised.total, cross_entropy(LOGITS, SOFT))
    assert list(supervised.parts) == ["label"]


def test_both_parts_teach():
    logits = LOGITS.clone().requires_grad_()
    gradients = []
    for objective in (VanillaKD(label_loss="none"), VanillaKD(kd_weight=0.0, label_loss="ce")):
        (gradient,) = torch.autograd.grad(objective(logits, ANSWERS, LABELS, WEIGHT).total, logits)
        gradients.append(gradient)
    (both,) = torch.autograd.grad(VanillaKD(label_loss="ce")(logits, ANSWERS, LABELS, WEIGHT).total, logits)
    torch.testing.assert_close(both, sum(gradients))


def test_it_is_gradient_of_float64_too():
    answers = Said(ANSWERS.values.double())
    objective = VanillaKD(temperature=2.0, label_loss="bce")
    assert torch.autograd.gradcheck(
        lambda z: objective(z, answers, LABELS, WEIGHT.double()).total, LOGITS.double().requires_grad_()
    )


def test_it_knows_what_it_needs():
    assert VanillaKD().needs == Needs(teacher=True, full=False, labels=True)
    assert VanillaKD(temperature=4.0).needs == Needs(teacher=True, full=True, labels=True)
    assert VanillaKD(label_loss="none").needs == Needs(teacher=True, full=False, labels=False)
    assert VanillaKD(label_weight=0.0).needs == Needs(teacher=True, full=False, labels=False)
    assert VanillaKD(kd_weight=0.0, temperature=4.0).needs == Needs(teacher=False, full=False, labels=True)


def test_without_answers_it_refuses_to_distil():
    with pytest.raises(UsageError, match="no teacher's answers"):
        VanillaKD()(LOGITS, None, LABELS, WEIGHT)


@pytest.mark.parametrize(
    ("needs", "there", "said"),
    [
        (VanillaKD().needs, {"targets": None, "labelled": True}, "--supervised"),
        (VanillaKD(temperature=4.0).needs, {"targets": "topk", "labelled": True}, "--targets full"),
        (VanillaKD().needs, {"targets": "topk", "labelled": False}, "label_loss=none"),
    ],
)
def test_what_is_missing_is_refused_with_a_remedy(needs, there, said):
    with pytest.raises(UsageError, match=said):
        require(needs, **there)


def test_what_is_there_is_accepted():
    require(VanillaKD().needs, targets="topk", labelled=True)
    require(VanillaKD(temperature=4.0).needs, targets="full", labelled=True)
    require(VanillaKD(temperature=4.0, kd_weight=0.0).needs, targets=None, labelled=True)
    require(VanillaKD(label_loss="none").needs, targets="topk", labelled=False)


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
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        replace(
            VanillaKD(),
            **{name: value if isinstance(value, str) else float(value) for name, value in wrong.items()},
        )
