"""What every relation between the samples of a batch promises, whatever it relates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.objectives.cc import cc, cc_kernel
from kdcache.objectives.pkt import pkt
from kdcache.objectives.rkd import rkd, rkd_angle, rkd_distance
from kdcache.objectives.sp import sp
from support.relations import features

RELATIONS = (rkd, rkd_distance, rkd_angle, pkt, sp, cc_kernel)
ALL = (*RELATIONS, cc)
# The order of rows means nothing to these.
seeds = st.integers(0, 2**32)
every = pytest.mark.parametrize("relation", ALL)
every_but_cc = pytest.mark.parametrize("relation", RELATIONS)


@every
@settings(max_examples=20)
@given(seeds)
def test_it_is_zero_for_equals_and_above_zero_for_others(relation, seed):
    student, teacher = features(seed, teacher=6)
    assert relation(student, student.clone()).item() == pytest.approx(0, abs=1e-9)
    assert relation(student, teacher).item() > 0


@every_but_cc
@settings(max_examples=20)
@given(seeds)
def test_the_order_of_rows_does_not_matter(relation, seed):
    student, teacher = features(seed)
    rows = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(relation(student[rows], teacher[rows]), relation(student, teacher))


@every_but_cc
def test_rows_that_are_paired_wrongly_are_seen(relation):
    student, _ = features(0)
    assert relation(student, student.roll(1, dims=0)).item() > 1e-6


@every
def test_its_gradient_is_right(relation):
    random = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(4, 3, generator=random, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda rows: relation(rows, teacher), student.requires_grad_())


@every_but_cc
def test_no_gradient_flows_to_the_teacher(relation):
    student, teacher = (side.requires_grad_() for side in features(2))
    relation(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "rows",
    [
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -3.0]],
        [[6e4, -6e4, 6e4], [-6e4, 6e4, 6e4], [6e4, 6e4, 6e4]],
        [[1e-4, 0.0, 0.0], [0.0, 1e-4, 0.0]],
        [[1.0, 2.0, 3.0]],
    ],
    ids=["zeros", "equal", "mixed", "large", "small", "one"],
)
def test_extremes_are_finite(relation, dtype, rows):
    random = torch.Generator().manual_seed(3)
    student = torch.tensor(rows, dtype=dtype, requires_grad=True)
    teacher = torch.randn(len(rows), 3, generator=random).to(dtype)
    for target in (teacher, torch.zeros_like(teacher), student.detach().flip(0)):
        value = relation(student, target)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        (gradient,) = torch.autograd.grad(value, student)
        assert torch.isfinite(gradient).all()
        # Nothing explodes where rows coincide or vanish.
        assert gradient.abs().max() < 1e10


@every
def test_autocast_does_not_round_it(relation):
    student, teacher = features(4, teacher=6, dtype=torch.float32)
    # Far from 0, products in half precision would lose every distance.
    student = student + 100.0
    expected = relation(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = relation(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
