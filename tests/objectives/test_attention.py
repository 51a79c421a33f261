import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kdcache.objectives.attention import attention, attention_distance, attention_map


def maps(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slowly(student, teacher):
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        lines = []
        for channels in (ours, theirs):
            places = [
                sum(channel[i][j] ** 2 for channel in channels) / len(channels)
                for i in range(len(channels[0]))
                for j in range(len(channels[0][0]))
            ]
            lines.append([place / math.hypot(*places) for place in places])
        total += sum((a - b) ** 2 for a, b in zip(*lines, strict=True))
    return total / (student.shape[0] * student.shape[2] * student.shape[3])


def test_it_is_the_sum_of_the_layers_definitions():
    student = [maps(0, 2, 3, 4, 4), maps(1, 2, 5, 2, 3)]
    teacher = [maps(2, 2, 6, 4, 4), maps(3, 2, 4, 2, 3)]
    expected = sum(slowly(ours, theirs) for ours, theirs in zip(student, teacher, strict=True))
    assert attention(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((7, 7), (3, 2))])
def test_the_larger_side_is_averaged_down(ours, theirs):
    student, teacher = maps(4, 2, 3, *ours), maps(5, 2, 6, *theirs)
    size = min(ours, theirs)
    expected = slowly(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size))
    assert attention([student], [teacher]).item() == pytest.approx(expected, rel=1e-12)


def test_kept_attention_maps_give_what_feature_maps_give():
    student, teacher = maps(6, 2, 3, 4, 4), maps(7, 2, 6, 8, 8)
    kept = attention_map(teacher, (4, 4))
    assert kept.shape == (2, 4, 4)
    torch.testing.assert_close(attention_distance(attention_map(student), kept), attention([student], [teacher]))


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.1, 10))
def test_scale_sign_and_order_of_channels_mean_nothing(seed, scale):
    student, teacher = maps(seed, 3, 4, 2, 2), maps(seed + 1, 3, 5, 2, 2)
    channels = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    changed = -scale * student[:, channels]
    torch.testing.assert_close(attention([changed], [teacher]), attention([student], [teacher]))
    assert attention([changed], [student]).item() == pytest.approx(0, abs=1e-12)


def test_its_gradient_is_right_and_none_flows_to_the_teacher():
    student, teacher = maps(8, 2, 2, 4, 4).requires_grad_(), maps(9, 2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: attention([values], [teacher]), student)
    attention([student], [teacher]).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("height", [0.0, 6e4])
def test_extremes_are_finite(dtype, height):
    student = torch.full((2, 3, 4, 4), height, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = attention([student], [maps(0, 2, 3, 2, 2).to(dtype)])
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
