import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.objectives.cc import Embeddings, cc, cc_kernel
from support.relations import features, turned


def test_it_is_the_definition():
    student, teacher = features(0, teacher=6)
    total = 0.0
    for row in range(4):
        for column in range(6):
            here, next_row = (abs(student[i, column] - teacher[i, column]).item() for i in (row, row + 1))
            total += here * next_row
    assert cc(student, teacher).item() == pytest.approx(total / 4, rel=1e-12)


@given(st.integers(0, 2**32))
def test_the_order_of_columns_does_not_matter_and_that_of_rows_does(seed):
    student, teacher = features(seed, teacher=6)
    columns = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(cc(student[:, columns], teacher[:, columns]), cc(student, teacher))
    rows = torch.tensor([0, 2, 4, 1, 3])
    assert cc(student[rows], teacher[rows]).item() != pytest.approx(cc(student, teacher).item(), rel=1e-6)


def kernel(rows, gamma, order):
    unit = [[x / math.hypot(*row) for x in row] for row in rows]
    dots = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in unit] for a in unit]
    return [
        [
            math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) * dot**p for p in range(order + 1))
            for dot in line
        ]
        for line in dots
    ]


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.0, 1), (0.2, 3)])
def test_the_kernels_distance_is_the_papers(gamma, order):
    student, teacher = features(1)
    ours, theirs = (kernel(side.tolist(), gamma, order) for side in (student, teacher))
    total = sum((s - t) ** 2 for a, b in zip(ours, theirs, strict=True) for s, t in zip(a, b, strict=True))
    assert cc_kernel(student, teacher, gamma, order).item() == pytest.approx(total / 25, rel=1e-9)


def test_a_long_series_is_the_gaussian_kernel():
    student, teacher = (torch.nn.functional.normalize(side) for side in features(2))
    ours, theirs = ((-0.4 * torch.cdist(side, side).square()).exp() for side in (student, teacher))
    torch.testing.assert_close(cc_kernel(student, teacher, order=20), (ours - theirs).square().mean())


@given(st.integers(0, 2**32), st.floats(0.1, 10))
def test_turning_and_scaling_either_side_changes_nothing_to_the_kernel(seed, scale):
    student, teacher = features(seed)
    torch.testing.assert_close(
        cc_kernel(scale * turned(student), scale * turned(teacher, 1)), cc_kernel(student, teacher)
    )


def test_both_embeddings_learn_and_the_teachers_features_do_not():
    student, teacher = (side.requires_grad_() for side in features(3, dtype=torch.float32))
    embeddings = Embeddings(6, 4, width=8)
    ours, theirs = embeddings(student, teacher)
    assert ours.shape == theirs.shape == (5, 8)
    cc(ours, theirs).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in embeddings.parameters())
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
