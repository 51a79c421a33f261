import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.objectives.sp import sp
from support.relations import features, turned


def similarities(rows):
    lines = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    return [[one / math.sqrt(sum(x * x for x in line)) for one in line] for line in lines]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_definition(seed):
    student, teacher = features(seed)
    total = 0.0
    for line_s, line_t in zip(similarities(student.tolist()), similarities(teacher.tolist()), strict=True):
        total += sum((s - t) ** 2 for s, t in zip(line_s, line_t, strict=True))
    assert sp(student, teacher).item() == pytest.approx(total / 25, rel=1e-9)


@given(st.integers(0, 2**32), st.floats(0.1, 10))
def test_turning_and_scaling_either_side_changes_nothing(seed, scale):
    student, teacher = features(seed)
    expected = sp(student, teacher)
    torch.testing.assert_close(sp(scale * turned(student, seed), teacher), expected)
    torch.testing.assert_close(sp(student, scale * turned(teacher, seed)), expected)
