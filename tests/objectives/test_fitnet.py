import pytest
import torch

from kdcache.errors import UsageError
from kdcache.objectives.fitnet import Regressor, hint


def maps(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_it_is_the_mean_square():
    student, teacher = maps(0, 2, 3, 2, 2), maps(1, 2, 3, 2, 2)
    slow = sum((a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)) / 24
    assert hint(student, teacher).item() == pytest.approx(slow, rel=1e-12)


def test_its_gradient_is_right_and_none_flows_to_the_teacher():
    student, teacher = (maps(seed, 2, 2, 2, 2).requires_grad_() for seed in (2, 3))
    assert torch.autograd.gradcheck(lambda values: hint(values, teacher), student)
    hint(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((4, 8, 8), (6, 4, 4)), ((4, 4, 4), (6, 8, 8)), ((4, 7, 7), (6, 7, 7)), ((4, 9, 8), (6, 7, 7))],
    ids=["halved", "doubled", "equal", "cut"],
)
def test_a_regressor_leads_to_the_teachers_shape_and_learns(student, teacher):
    torch.manual_seed(0)
    regressor = Regressor(student, teacher)
    ours, theirs = maps(4, 5, *student, dtype=torch.float32), maps(5, 5, *teacher, dtype=torch.float32).relu()
    optimizer = torch.optim.SGD(regressor.parameters(), lr=0.5)
    losses = []
    for _ in range(12):
        loss = hint(regressor(ours), theirs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_maps_without_a_way_between_them_are_refused():
    with pytest.raises(UsageError, match=r"4 x 4.*10 x 10"):
        Regressor((3, 4, 4), (3, 10, 10))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    student = torch.full((2, 4, 2, 2), 6e4, dtype=dtype, requires_grad=True)
    value = hint(student, -student)
    value.backward()
    assert value.item() == pytest.approx((2 * student.flatten()[0].item()) ** 2, rel=1e-6)
    assert torch.isfinite(student.grad).all()
