import io
import math

import pytest
import torch

from kdcache.objectives import crd as module
from kdcache.objectives.crd import Contrast, larger_share, nce

SAMPLES, WIDTH = 10, 4


def made(seed=0, dtype=torch.float64, **settings):
    torch.manual_seed(seed)
    return Contrast(6, 5, SAMPLES, torch.Generator().manual_seed(seed), width=WIDTH, **settings).to(dtype)


def batch(seed=0, rows=3, negatives=4, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=random, dtype=dtype) for width in (6, 5))
    samples = torch.randperm(SAMPLES, generator=random)[:rows]
    return student, teacher, samples, torch.randint(SAMPLES, (rows, negatives), generator=random)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(vector):
    return [x / math.sqrt(dot(vector, vector)) for x in vector]


class Slowly:
    """The definition, a number at a time; with the scale of the first batch and a memory that moves."""

    def __init__(self, crd):
        self.linear = [(layer.weight.tolist(), layer.bias.tolist()) for layer in (crd.embed_student, crd.embed_teacher)]
        self.memories = [crd.student_memory.tolist(), crd.teacher_memory.tolist()]
        self.scales = [None, None]

    def loss(self, student, teacher, samples, negatives):
        embeddings = [
            [unit([dot(line, row) + b for line, b in zip(weight, bias, strict=True)]) for row in rows.tolist()]
            for rows, (weight, bias) in zip((student, teacher), self.linear, strict=True)
        ]
        total, rows, noise = 0.0, len(samples), negatives.shape[1] / SAMPLES
        for side in (0, 1):
            memory = self.memories[1 - side]
            heights = [
                [math.exp(dot(v, memory[j]) / 0.07) for j in (own, *others)]
                for v, own, others in zip(embeddings[side], samples.tolist(), negatives.tolist(), strict=True)
            ]
            if self.scales[side] is None:
                self.scales[side] = SAMPLES * sum(map(sum, heights)) / (rows * len(heights[0]))
            for line in heights:
                own, *others = (height / self.scales[side] for height in line)
                total -= math.log(own / (own + noise + 1e-7)) / rows
                total -= sum(math.log(noise / (other + noise + 1e-7)) for other in others) / rows
        for side in (0, 1):
            for v, own in zip(embeddings[side], samples.tolist(), strict=True):
                moved = [0.5 * old + 0.5 * new for old, new in zip(self.memories[side][own], v, strict=True)]
                self.memories[side][own] = unit(moved)
        return total


def test_it_is_the_definition_batch_after_batch():
    crd = made()
    slowly = Slowly(crd)
    for step in range(4):
        inputs = batch(step)
        assert crd(*inputs).item() == pytest.approx(slowly.loss(*inputs), rel=1e-9)
    for ours, expected in zip((crd.student_memory, crd.teacher_memory), slowly.memories, strict=True):
        torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))
    assert [crd.student_scale.item(), crd.teacher_scale.item()] == pytest.approx(slowly.scales)


def test_a_row_is_told_from_noise_as_the_definition_says():
    probs = torch.tensor([[0.3, 0.2, 0.01], [1.7, 1e-5, 0.4]], dtype=torch.float64)
    noise = 2 / 50
    for row, loss in zip(probs.tolist(), nce(probs.log(), 50).tolist(), strict=True):
        own, *others = row
        slow = -math.log(own / (own + noise + 1e-7)) - sum(math.log(noise / (p + noise + 1e-7)) for p in others)
        assert loss == pytest.approx(slow, rel=1e-12)


def test_gradients_are_right_even_after_the_memory_moved():
    crd = made(1).eval()
    student, teacher, samples, negatives = batch(1)
    crd.train()(student, teacher, samples, negatives)
    crd.eval()
    names, parameters = zip(*crd.named_parameters(), strict=True)

    def loss(features, *values):
        everything = dict(zip(names, values, strict=True))
        return torch.func.functional_call(crd, everything, (features, teacher, samples, negatives))

    inputs = [value.detach().clone().requires_grad_() for value in (student, *parameters)]
    assert torch.autograd.gradcheck(loss, inputs)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    crd.train()
    moved = torch.autograd.grad(loss(*inputs), inputs)
    assert not torch.equal(crd.student_memory, made(1).student_memory)
    torch.testing.assert_close(moved, expected)


def test_a_row_at_a_time_gives_what_all_at_once_give(monkeypatch):
    student, *rest = batch(2)
    values, gradients = [], []
    for held in (2**26, 1):
        monkeypatch.setattr(module, "_AT_A_TIME", held)
        crd = made(2)
        student = student.detach().requires_grad_()
        value = crd(student, *rest)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, student)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_it_goes_on_from_its_state_dict():
    crd = made(3)
    crd(*batch(3))
    file = io.BytesIO()
    torch.save(crd.state_dict(), file)
    file.seek(0)
    restored = made(4)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for step in (4, 5):
        assert torch.equal(crd(*batch(step)), restored(*batch(step)))
    assert all(torch.equal(*pair) for pair in zip(crd.buffers(), restored.buffers(), strict=True))


def test_only_training_moves_the_memory():
    crd = made(5)
    before = crd.student_memory.clone()
    crd.eval()(*batch(5))
    assert torch.equal(crd.student_memory, before)
    _, _, samples, _ = inputs = batch(5)
    crd.train()(*inputs)
    moved = (crd.student_memory != before).any(dim=1).nonzero()[:, 0]
    assert moved.tolist() == sorted(samples.tolist())
    torch.testing.assert_close(crd.student_memory[samples].norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_of_a_sample_that_comes_twice_the_last_row_counts():
    student, teacher, _, negatives = batch(6)
    twice, once = made(6), made(6)
    twice(student, teacher, torch.tensor([7, 2, 7]), negatives)
    once(student[1:], teacher[1:], torch.tensor([2, 7]), negatives[1:])
    torch.testing.assert_close(twice.student_memory, once.student_memory)
    torch.testing.assert_close(twice.teacher_memory, once.teacher_memory)


def test_no_gradient_flows_to_the_teachers_features():
    student, teacher, *rest = batch(7)
    crd = made(7)
    crd(student.requires_grad_(), teacher.requires_grad_(), *rest).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in crd.parameters())


def test_the_first_memory_is_the_generators():
    assert torch.equal(made(8).student_memory, made(8).student_memory)
    assert not torch.equal(made(8).student_memory, made(9).student_memory)
    assert not torch.equal(made(8).student_memory, made(8).teacher_memory)
    assert made(8).student_memory.abs().max() < math.sqrt(3 / WIDTH)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("height", [0.0, 1.0, 6e4])
def test_extremes_are_finite(dtype, height):
    crd = made(9, dtype=torch.float32)
    for layer in (crd.embed_student, crd.embed_teacher):
        layer.bias.data.zero_()
    student = torch.full((2, 6), height, dtype=dtype, requires_grad=True)
    samples, negatives = torch.tensor([0, 0]), torch.tensor([[1], [1]])
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = crd(student, torch.full((2, 5), height, dtype=dtype), samples, negatives)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        (gradient,) = torch.autograd.grad(value, student)
        assert torch.isfinite(gradient).all()
    assert all(torch.isfinite(buffer).all() for buffer in crd.buffers())


def test_a_mixed_picture_counts_as_the_sample_of_the_larger_share():
    samples, weight = torch.tensor([4, 7, 1, 2, 9, 3]), torch.tensor([0.8, 0.8, 0.3, 0.3, 1.0, 1.0])
    assert larger_share(samples, weight).tolist() == [4, 7, 2, 1, 9, 3]
    assert larger_share(samples, torch.full((6,), 0.5)).tolist() == samples.tolist()


def test_the_scales_are_those_of_the_state_that_was_loaded():
    trained, other = made(10), made(11)
    trained(*batch(10))
    other(*batch(11))
    other.load_state_dict(trained.state_dict())
    before = other.student_scale.clone()
    assert torch.equal(other(*batch(12)), trained(*batch(12)))
    assert torch.equal(other.student_scale, before)
    fresh = made(13).state_dict()
    other.load_state_dict(fresh)
    other(*batch(12))
    assert other.student_scale > 0, "measured anew after a state without scales"
