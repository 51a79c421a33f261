import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from kdcache.errors import UsageError
from kdcache.objectives.reviewkd import Fusion, Review, hierarchical_context, with_summary


def maps(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def block_means(plane, size):
    """Means of a square plane's size x size blocks."""
    step = len(plane) // size
    return [
        sum(plane[i * step + k][j * step + m] for k in range(step) for m in range(step)) / step**2
        for i in range(size)
        for j in range(size)
    ]


def slowly(student, teacher, sizes):
    """The definition on maps whose height is a multiple of every size, the first of which is the height."""
    total = weights = 0.0
    for number, size in enumerate(sizes):
        squares = [
            (a - b) ** 2
            for ours, theirs in zip(student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist(), strict=True)
            for a, b in zip(block_means(ours, size), block_means(theirs, size), strict=True)
        ]
        total += sum(squares) / len(squares) / 2**number
        weights += 1 / 2**number
    return total / weights


@pytest.mark.parametrize("sizes", [(8, 4, 2, 1), (4, 2, 1), (2, 1), (1,)])
def test_a_level_is_the_definition_at_every_size_below_its_own(sizes):
    student, teacher = (maps(seed, 2, 3, sizes[0], sizes[0]) for seed in (0, 1))
    expected = slowly(student, teacher, sizes)
    assert hierarchical_context([student], [teacher]).item() == pytest.approx(expected, rel=1e-12)


def test_levels_are_summed():
    student, teacher = ([maps(seed, 2, 3, 7, 7), maps(seed + 1, 2, 5, 1, 1)] for seed in (2, 4))
    each = [hierarchical_context([ours], [theirs]) for ours, theirs in zip(student, teacher, strict=True)]
    torch.testing.assert_close(hierarchical_context(student, teacher), each[0] + each[1])


def test_its_gradient_is_right_and_none_flows_to_the_teacher():
    student, teacher = (maps(seed, 2, 2, 6, 6).requires_grad_() for seed in (6, 7))
    assert torch.autograd.gradcheck(lambda values: hierarchical_context([values], [teacher]), student)
    hierarchical_context([student], [teacher]).backward()
    assert teacher.grad is None


def test_levels_are_weighed_place_by_place():
    torch.manual_seed(0)
    fusion = Fusion(3, 4, 5, fuses=True).eval()
    level, coarse = maps(8, 2, 3, 4, 4, dtype=torch.float32), maps(9, 2, 4, 2, 2, dtype=torch.float32)
    out, fused = fusion(level, coarse, (4, 4))
    own = fusion.inward(level)
    handed = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    share = torch.sigmoid(fusion.weigh[0](torch.cat([own, handed], dim=1)))
    expected = torch.empty_like(own)
    for row in range(4):
        for column in range(4):
            place = (..., row, column)
            weights = share[place]
            expected[place] = own[place] * weights[:, :1] + handed[place] * weights[:, 1:]
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(out, fusion.outward(expected))


def test_every_level_but_the_coarsest_sees_all_coarser_ones():
    review = Review([3, 4, 5], [6, 7, 8], middle=4).eval()
    levels = [
        maps(seed, 2, channels, 8 >> seed, 8 >> seed, dtype=torch.float32) for seed, channels in enumerate((3, 4, 5))
    ]
    made = review(levels)
    assert [tuple(level.shape[1:]) for level in made] == [(6, 8, 8), (7, 4, 4), (8, 2, 2)]
    for changed in range(3):
        others = review([level + (number == changed) for number, level in enumerate(levels)])
        differs = [not torch.equal(one, other) for one, other in zip(made, others, strict=True)]
        assert differs == [number <= changed for number in range(3)]


def test_levels_take_the_teachers_size_where_it_differs():
    levels = [maps(0, 2, 3, 4, 4, dtype=torch.float32), maps(1, 2, 4, 4, 4, dtype=torch.float32)]
    made = Review([3, 4], [6, 7], middle=4)(levels, [(8, 8), (2, 3)])
    assert [tuple(level.shape[1:]) for level in made] == [(6, 8, 8), (7, 2, 3)]


def test_levels_that_differ_in_number_are_refused():
    with pytest.raises(UsageError, match=r"3 levels.*2"):
        Review([1, 2, 3], [1, 2])


def test_a_student_learns_the_levels_of_a_timm_teacher():
    torch.manual_seed(0)
    student, teacher = (
        timm.create_model(name, features_only=True, out_indices=(1, 2, 3))
        for name in ("test_resnet", "test_efficientnet")
    )
    images = maps(2, 4, 3, 64, 64, dtype=torch.float32)
    teacher.eval()
    with torch.no_grad():
        theirs = with_summary(teacher(images))
    channels = [[*net.feature_info.channels(), net.feature_info.channels()[-1]] for net in (student, teacher)]
    review = Review(*channels, middle=16)
    both = nn.ModuleDict({"student": student, "review": review})
    optimizer = torch.optim.Adam(both.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        made = review(with_summary(student(images)), [tuple(level.shape[2:]) for level in theirs])
        loss = hierarchical_context(made, theirs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in review.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    student = torch.full((2, 1, 8, 8), 6e4, dtype=dtype, requires_grad=True)
    value = hierarchical_context([student], [-student])
    value.backward()
    assert value.item() == pytest.approx((2 * student.flatten()[0].item()) ** 2, rel=1e-6)
    assert torch.isfinite(student.grad).all()


def test_the_pooled_level_is_the_mean():
    level = maps(3, 2, 4, 3, 5)
    *kept, pooled = with_summary([level])
    assert kept == [level]
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(level, 1))
