"""WSLD and IPWD: their weights follow the student, and no gradient flows through them."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdcache.objectives.ipwd import ipwd
from kdcache.objectives.labels import soft_labels
from kdcache.objectives.wsld import wsld
from support.batches import drawn, labels_of


def softened(logits, temperature):
    total = sum(math.exp(z / temperature) for z in logits)
    return [math.exp(z / temperature) / total for z in logits]


def crossed(wanted, probs):
    return -sum(y * math.log(p) for y, p in zip(wanted, probs, strict=True))


def divergence(wanted, probs):
    return sum(y * math.log(y / p) for y, p in zip(wanted, probs, strict=True))


def standard(logits):
    mean = sum(logits) / len(logits)
    std = math.sqrt(sum((z - mean) ** 2 for z in logits) / (len(logits) - 1))
    return [(z - mean) / (1e-7 + std) for z in logits]


def wsld_weights(student, teacher, soft, _):
    return [
        1 - math.exp(-crossed(y, softened(s, 1)) / (crossed(y, softened(t, 1)) + 1e-7))
        for s, t, y in zip(student, teacher, soft, strict=True)
    ]


def wsld_slowly(student, teacher, weights, temperature):
    """The definition with given weights, a row at a time."""
    terms = [
        w * crossed(softened(t, temperature), softened(s, temperature))
        for w, s, t in zip(weights, student, teacher, strict=True)
    ]
    return temperature**2 * sum(terms) / len(terms)


def ipwd_weights(student, _, soft, head):
    return [
        1 + crossed(y, softened(standard(h), 1)) / (crossed(y, softened(standard(s), 1)) + 1e-7)
        for s, h, y in zip(student, head, soft, strict=True)
    ]


def ipwd_slowly(student, teacher, weights, temperature):
    terms = [
        w * divergence(softened(t, temperature), softened(s, temperature))
        for w, s, t in zip(weights, student, teacher, strict=True)
    ]
    return temperature**2 * sum(terms) / len(terms)


def _wsld(student, _, teacher, soft, temperature):
    return wsld(student, teacher, soft, temperature)


BOTH = pytest.mark.parametrize(
    ("loss", "weights_of", "slowly"), [(_wsld, wsld_weights, wsld_slowly), (ipwd, ipwd_weights, ipwd_slowly)]
)


def batch(seed):
    student, teacher = drawn(seed)
    soft = soft_labels(*labels_of(seed), 7)
    return student, drawn(seed + 100)[0], teacher, soft


@BOTH
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_it_is_the_definition(loss, weights_of, slowly, temperature):
    student, head, teacher, soft = batch(0)
    weights = weights_of(student.tolist(), teacher.tolist(), soft.tolist(), head.tolist())
    assert len({round(w, 6) for w in weights}) == len(weights)
    expected = slowly(student.tolist(), teacher.tolist(), weights, temperature)
    assert loss(student, head, teacher, soft, temperature).item() == pytest.approx(expected, rel=1e-9)


@BOTH
def test_its_gradient_takes_the_weights_for_constants(loss, weights_of, slowly):
    student, head, teacher, soft = batch(1)
    weights = weights_of(student.tolist(), teacher.tolist(), soft.tolist(), head.tolist())
    student.requires_grad_()
    loss(student, head.requires_grad_(), teacher, soft, 2.0).backward()
    assert head.grad is None
    rows, step = student.tolist(), 1e-6
    for i in range(len(rows)):
        for c in range(len(rows[0])):
            around = []
            for move in (step, -step):
                nudged = [list(row) for row in rows]
                nudged[i][c] += move
                around.append(slowly(nudged, teacher.tolist(), weights, 2.0))
            assert student.grad[i, c].item() == pytest.approx((around[0] - around[1]) / (2 * step), abs=1e-7)


def test_wsld_asks_less_where_the_student_is_the_better_one():
    soft = F.one_hot(torch.tensor([0]), 3).double()
    teacher = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
    good, poor = torch.tensor([[9.0, 0.0, 0.0]]).double(), torch.tensor([[-9.0, 0.0, 0.0]]).double()

    def weight(student):
        whole = -(teacher.exp() * F.log_softmax(student, dim=1)).sum()
        return (wsld(student, teacher, soft, 1.0) / whole).item()

    assert weight(good) < 0.001
    assert weight(poor) > 0.99


def test_ipwd_asks_more_where_labels_alone_do_not_help():
    soft = F.one_hot(torch.tensor([0]), 3).double()
    teacher, student = drawn(3, rows=1, classes=3)[1], torch.tensor([[1.0, 0.5, 0.0]]).double()
    right, wrong = torch.tensor([[9.0, 0.0, 0.0]]).double(), torch.tensor([[-9.0, 0.0, 0.0]]).double()
    assert ipwd(student, wrong, teacher, soft) > 2 * ipwd(student, right, teacher, soft)
