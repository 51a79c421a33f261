import math
from types import MappingProxyType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.task import LogitDistillationTask
from torch import nn
from torch.nn import functional as F

from kdcache.objectives.kd import kd


def drawn(seed, rows=5, classes=7, scale=3.0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, classes, generator=random, dtype=dtype) * scale for _ in range(2))
    return student, teacher


def slowly(student, teacher, temperature):
    """The definition, a number at a time."""
    total = 0.0
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        sum_s = sum(math.exp(z / temperature) for z in z_s)
        sum_t = sum(math.exp(z / temperature) for z in z_t)
        for s, t in zip(z_s, z_t, strict=True):
            p_s, p_t = math.exp(s / temperature) / sum_s, math.exp(t / temperature) / sum_t
            total += p_t * math.log(p_t / p_s)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_definition(temperature):
    student, teacher = drawn(0)
    value = kd(student, F.log_softmax(teacher, dim=-1), temperature)
    assert value.item() == pytest.approx(slowly(student, teacher, temperature), rel=1e-12)


class _Fixed(nn.Module):
    """A model that returns what it was given."""

    num_classes, in_chans = 7, 3
    pretrained_cfg = MappingProxyType({"mean": (0.5,) * 3, "std": (0.5,) * 3})

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _):
        return self.logits


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_it_is_timms_distillation_loss(temperature):
    student, teacher = drawn(1)
    task = LogitDistillationTask(
        _Fixed(student),
        _Fixed(teacher),
        criterion=nn.CrossEntropyLoss(),
        temperature=temperature,
        task_loss_weight=0.0,
        distill_loss_weight=1.0,
        verbose=False,
    )
    expected = task(torch.zeros(5, 3, 2, 2, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))["loss"]
    value = kd(student, F.log_softmax(teacher, dim=-1), temperature)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_its_gradient_is_right(temperature):
    student, teacher = drawn(2, rows=3, classes=4)
    log_probs = F.log_softmax(teacher, dim=-1)
    assert torch.autograd.gradcheck(lambda z: kd(z, log_probs, temperature), student.requires_grad_())


def test_no_gradient_flows_to_the_teacher():
    student, teacher = drawn(3)
    teacher.requires_grad_()
    kd(student.requires_grad_(), F.log_softmax(teacher, dim=-1)).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


seeds = st.integers(0, 2**32)
temperatures = st.sampled_from([0.5, 1.0, 2.0, 8.0])


@given(seeds, temperatures)
def test_it_is_zero_for_equals_and_above_zero_for_others(seed, temperature):
    student, teacher = drawn(seed)
    assert kd(student, F.log_softmax(student, dim=-1), temperature).item() == pytest.approx(0, abs=1e-10)
    assert kd(student, F.log_softmax(teacher, dim=-1), temperature).item() > 0


@given(seeds, temperatures, st.floats(-50, 50))
def test_shifting_logits_changes_nothing(seed, temperature, shift):
    student, teacher = drawn(seed)
    log_probs = F.log_softmax(teacher, dim=-1)
    torch.testing.assert_close(kd(student + shift, log_probs, temperature), kd(student, log_probs, temperature))


@given(seeds, temperatures)
def test_the_order_of_classes_and_of_rows_does_not_matter(seed, temperature):
    student, teacher = drawn(seed)
    log_probs = F.log_softmax(teacher, dim=-1)
    random = torch.Generator().manual_seed(seed)
    classes, rows = torch.randperm(7, generator=random), torch.randperm(5, generator=random)
    moved = kd(student[rows][:, classes], log_probs[rows][:, classes], temperature)
    torch.testing.assert_close(moved, kd(student, log_probs, temperature))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_extremes_are_finite(dtype, temperature):
    certain = torch.tensor([[0.0, -math.inf, -math.inf], [-200.0, 0.0, -300.0]])
    student = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0]], dtype=dtype, requires_grad=True)
    value = kd(student, certain, temperature)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    wrong = kd(student.flip(1), certain, temperature)
    assert torch.isfinite(wrong)
    assert wrong > value


def test_one_class_and_one_row_are_no_trouble():
    assert kd(torch.zeros(1, 1), torch.zeros(1, 1), 2.0).item() == 0


def test_under_autocast_the_loss_is_float32():
    student, teacher = drawn(4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = kd(student.bfloat16(), F.log_softmax(teacher, dim=-1))
    assert value.dtype == torch.float32
