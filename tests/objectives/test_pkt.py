import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.objectives.pkt import pkt
from support.relations import features, turned


def neighbours(rows):
    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    likeness = [[(cosine(a, b) + 1) / 2 for b in rows] for a in rows]
    return [[one / sum(line) for one in line] for line in likeness]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_definition(seed):
    student, teacher = features(seed)
    ours, theirs = neighbours(student.tolist()), neighbours(teacher.tolist())
    total = 0.0
    for line_s, line_t in zip(ours, theirs, strict=True):
        for p_s, p_t in zip(line_s, line_t, strict=True):
            total += p_t * math.log((p_t + 1e-7) / (p_s + 1e-7))
    assert pkt(student, teacher).item() == pytest.approx(total / 25, rel=1e-9)


@given(st.integers(0, 2**32), st.floats(0.1, 10))
def test_turning_and_scaling_either_side_changes_nothing(seed, scale):
    student, teacher = features(seed)
    expected = pkt(student, teacher)
    torch.testing.assert_close(pkt(scale * turned(student, seed), teacher), expected)
    torch.testing.assert_close(pkt(student, scale * turned(teacher, seed)), expected)
