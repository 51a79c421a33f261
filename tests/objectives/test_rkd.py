import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.objectives import rkd as module
from kdcache.objectives.rkd import rkd, rkd_angle, rkd_distance
from support.relations import features, turned


def smooth(difference):
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def relative_distances(rows):
    apart = [[math.dist(a, b) for b in rows] for a in rows]
    mean = sum(map(sum, apart)) / (len(rows) * (len(rows) - 1))
    return [[distance / mean for distance in line] for line in apart]


def direction(a, b):
    length = math.dist(a, b)
    return [(y - x) / length if length else 0.0 for x, y in zip(a, b, strict=True)]


def cosines(rows):
    return [
        [[sum(x * y for x, y in zip(direction(j, i), direction(j, k), strict=True)) for k in rows] for i in rows]
        for j in rows
    ]


def flat(nested):
    return [number for inner in nested for number in flat(inner)] if isinstance(nested, list) else [nested]


def slowly(of, student, teacher):
    pairs = list(zip(flat(of(student.tolist())), flat(of(teacher.tolist())), strict=True))
    return sum(smooth(s - t) for s, t in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_definition(seed):
    student, teacher = features(seed)
    distance = slowly(relative_distances, student, teacher)
    angle = slowly(cosines, student, teacher)
    assert rkd_distance(student, teacher).item() == pytest.approx(distance, rel=1e-9)
    assert rkd_angle(student, teacher).item() == pytest.approx(angle, rel=1e-9)
    assert rkd(student, teacher).item() == pytest.approx(25 * distance + 50 * angle, rel=1e-9)
    assert rkd(student, teacher, 0.0, 2.0).item() == pytest.approx(2 * angle, rel=1e-9)
    assert rkd(student, teacher, 3.0, 0.0).item() == pytest.approx(3 * distance, rel=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.1, 10), st.floats(-100, 100))
def test_moving_turning_and_scaling_either_side_changes_nothing(seed, scale, shift):
    student, teacher = features(seed)
    for relation in (rkd_distance, rkd_angle):
        expected = relation(student, teacher)
        torch.testing.assert_close(relation(scale * turned(student, seed) + shift, teacher), expected)
        torch.testing.assert_close(relation(student, scale * turned(teacher, seed) + shift), expected)


def test_distances_far_from_zero_keep_their_digits():
    student, teacher = features(5, rows=16, dtype=torch.float32)
    torch.testing.assert_close(
        rkd_distance(student + 1000.0, teacher), rkd_distance(student, teacher), rtol=1e-3, atol=1e-6
    )


def test_a_corner_at_a_time_gives_what_all_at_once_give(monkeypatch):
    student, teacher = features(6)
    values, gradients = [], []
    for held in (2**24, 1):
        monkeypatch.setattr(module, "_AT_A_TIME", held)
        student = student.detach().requires_grad_()
        value = rkd_angle(student, teacher)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, student)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
