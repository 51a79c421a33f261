"""Losses take few operations, and have the bits of their formulas computed one operation after another."""

import copy
import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdcache.objectives.distillation import Distillation
from kdcache.objectives.kd import kd_by_row
from kdcache.objectives.labels import soft_labels
from kdcache.objectives.registry import OBJECTIVES
from support.batches import batch_for, called

CLASSES, ROWS = 40, 64


def random_pairs(seed: int) -> tuple[Tensor, Tensor]:
    """Labels with partners that are another class, the same one, or missing, and weights, 0 and 1 among them."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (ROWS, 2), generator=random)
    labels[::4, 1] = labels[::4, 0]
    labels[1::4, 1] = -1
    weight = torch.rand(ROWS, generator=random)
    weight[:8], weight[8:16] = 0.0, 1.0
    return labels, weight


def bits(values: Tensor) -> list[int]:
    """The bits of float32 values, which tell 0 from -0."""
    return values.detach().view(torch.int32).flatten().tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_soft_labels_are_two_smoothed_one_hot_tensors_times_their_shares(smoothing: float) -> None:
    labels, weight = random_pairs(0)
    rest = smoothing / CLASSES

    def one_hot(classes: Tensor) -> Tensor:
        return torch.full((ROWS, CLASSES), rest).scatter_(1, classes[:, None], 1.0 - smoothing + rest)

    own, partner = labels.unbind(1)
    partner = torch.where(partner < 0, own, partner)
    share = torch.where(labels[:, 1] < 0, 1.0, weight)[:, None]
    expected = one_hot(own) * share + one_hot(partner) * (1.0 - share)
    assert bits(soft_labels(labels, weight, CLASSES, smoothing)) == bits(expected)


def kd_step_by_step(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 p log(p / q) with every division and product written out, and no term for a probability of 0."""
    teacher = teacher if temperature == 1 else F.log_softmax(teacher / temperature, dim=-1)
    probs = teacher.exp()
    student = F.log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * (probs * (teacher.masked_fill(probs == 0, 0.0) - student)).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_and_its_gradient_have_the_bits_of_the_formula(temperature: float, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(1)
    logits = (torch.randn(ROWS, CLASSES, generator=random) * 5).to(dtype)
    # -300 is a probability of 0 in float32 with a finite logarithm, -inf one without.
    teacher = torch.randn(ROWS, CLASSES, generator=random).mul(4).log_softmax(1)
    teacher[:, 3], teacher[::2, 5] = -torch.inf, -300.0
    found = []
    for loss in (kd_by_row, kd_step_by_step):
        student = logits.clone().requires_grad_()
        rows = loss(student, teacher, temperature)
        rows.mean().backward()
        assert student.grad is not None
        assert rows.isfinite().all()
        found.append((bits(rows), student.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("label_weight", [1.0, 0.3])
@pytest.mark.parametrize(
    "name", [name for name, objective in OBJECTIVES.items() if isinstance(objective, Distillation)]
)
def test_the_total_is_the_sum_of_the_weighted_parts_from_zero_on(name: str, label_weight: float) -> None:
    objective = OBJECTIVES[name]
    known = {field.name for field in dataclasses.fields(objective)}
    # CRD's 16,384 negatives a row say no more here than some dozens.
    asked = {"label_weight": label_weight, "label_loss": "ce", "negatives": 48}
    objective = dataclasses.replace(objective, **{key: value for key, value in asked.items() if key in known})
    inputs = batch_for(objective, dtype=torch.float32)
    losses = called(objective, inputs)
    remembered = replace(inputs, aux_module=copy.deepcopy(inputs.aux_module))
    weights = {part: weight for part, (weight, _) in objective.terms(remembered).items()}
    weights["label"] = objective.label_weight
    expected = torch.zeros(())
    for part, loss in losses.parts.items():
        expected = expected + weights.get(part, 1.0) * loss
    assert losses.total.dtype == torch.float32
    assert bits(losses.total) == bits(expected)
