"""BKL, DKD, DIST, LSKD and PS-KD against their definitions, a number at a time, and against torchdistill's."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchdistill.losses.mid_level import DISTLoss, KDLoss, LogitStdKDLoss

from kdcache.errors import UsageError
from kdcache.objectives.bkl import bkl
from kdcache.objectives.dist import dist
from kdcache.objectives.dkd import DKD, dkd
from kdcache.objectives.kd import kd
from kdcache.objectives.labels import hard_labels, soft_labels
from kdcache.objectives.lskd import LSKD, lskd, standardized
from kdcache.objectives.ps_kd import PSKD, ps_kd
from support.batches import CLASSES, ROWS, WHERE, batch_for, by_torchdistill, drawn, labels_of

TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])


def softened(logits, temperature=1.0):
    total = sum(math.exp(z / temperature) for z in logits)
    return [math.exp(z / temperature) / total for z in logits]


def divergence(wanted, probs):
    return sum(y * math.log(y / p) for y, p in zip(wanted, probs, strict=True))


def rows_of(*tensors):
    return zip(*(tensor.tolist() for tensor in tensors), strict=True)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


# BKL


def test_bkl_is_the_definition():
    student, teacher = drawn(0)
    slow = 0.0
    for z_s, z_t in rows_of(student, teacher):
        for z, p in zip(z_s, softened(z_t), strict=True):
            sigmoid = 1 / (1 + math.exp(-z))
            slow -= p * math.log(sigmoid) + (1 - p) * math.log(1 - sigmoid)
    assert bkl(student, teacher).item() == pytest.approx(slow / (ROWS * CLASSES), rel=1e-9)


def test_bkl_is_least_where_each_sigmoid_is_the_teachers_probability():
    _, teacher = drawn(1)
    student = torch.logit(teacher.exp()).requires_grad_()
    bkl(student, teacher).backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)


# DKD


def dkd_slowly(student, teacher, target, alpha, beta, temperature):
    def of_a_row(z_s, z_t, y):
        p_s, p_t = softened(z_s, temperature), softened(z_t, temperature)
        sure = divergence([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]])
        others = [c for c in range(len(p_s)) if c != y]
        divided = divergence([p_t[c] / (1 - p_t[y]) for c in others], [p_s[c] / (1 - p_s[y]) for c in others])
        return alpha * sure + beta * divided

    return temperature**2 * mean(of_a_row(*row) for row in rows_of(student, teacher, target))


@TEMPERATURES
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_dkd_is_the_definition(temperature, alpha, beta):
    student, teacher = drawn(2)
    target = torch.arange(ROWS) % CLASSES
    expected = dkd_slowly(student, teacher, target, alpha, beta, temperature)
    ours = dkd(student, teacher, target, alpha=alpha, beta=beta, temperature=temperature)
    assert ours.item() == pytest.approx(expected, rel=1e-9)


def test_dkd_with_the_teachers_own_doubt_as_its_weight_is_kd():
    """Zhao et al., Eq. 6: KL is being sure plus (1 - p_t[y]) times dividing the rest, row by row."""
    student, teacher = drawn(3)
    target = torch.arange(ROWS) % CLASSES
    total = mean(
        dkd(student[i : i + 1], teacher[i : i + 1], target[i : i + 1], alpha=1.0, beta=1 - p).item()
        for i, p in enumerate(teacher.exp().gather(1, target[:, None])[:, 0].tolist())
    )
    assert total == pytest.approx(kd(student, teacher).item(), rel=1e-9)


def test_dkd_of_two_classes_is_refused():
    student, teacher = drawn(4, classes=2)
    with pytest.raises(UsageError, match="3 classes"):
        dkd(student, teacher, torch.zeros(ROWS, dtype=torch.int64))


def test_a_mixed_picture_counts_with_the_label_of_the_larger_share():
    labels = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2], [4, -1], [5, 6], [6, 5]])
    weight = torch.tensor([0.9, 0.9, 0.2, 0.2, 1.0, 0.5, 0.5])
    assert hard_labels(labels, weight).tolist() == [0, 1, 3, 2, 4, 5, 6]
    decided = weight != 0.5
    soft = soft_labels(labels, weight, CLASSES)
    assert torch.equal(soft.argmax(1)[decided], hard_labels(labels, weight)[decided])
    objective = DKD(label_loss="none")
    inputs = batch_for(objective)
    target = hard_labels(inputs.labels, inputs.weight)
    assert not torch.equal(target, inputs.labels[:, 0])
    assert torch.equal(objective(inputs).total, dkd(inputs.logits, inputs.targets.values, target))


@pytest.mark.parametrize("kind", [DKD, LSKD])
def test_dkd_warms_up(kind):
    choice = {"method": "dkd"} if kind is LSKD else {}
    objective = kind(label_loss="none", warmup_epochs=4, **choice)
    inputs = batch_for(objective)
    shares = [
        (objective(replace(inputs, epoch=epoch)).total / objective(replace(inputs, epoch=99)).total).item()
        for epoch in range(6)
    ]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


# DIST


def correlation(one, other):
    one, other = ([z - mean(row) for z in row] for row in (one, other))
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other)) + 1e-8)


def relation(one, other):
    return 1 - mean(correlation(*pair) for pair in zip(one, other, strict=True))


@TEMPERATURES
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.0), (0.0, 3.0)])
def test_dist_is_the_definition_and_torchdistills(temperature, beta, gamma):
    student, teacher = drawn(5)
    p_s, p_t = ([softened(row, temperature) for row in z.tolist()] for z in (student, teacher))
    columns = relation(*(list(zip(*p, strict=True)) for p in (p_s, p_t)))
    slow = temperature**2 * (beta * relation(p_s, p_t) + gamma * columns)
    ours = dist(student, teacher, beta=beta, gamma=gamma, temperature=temperature)
    assert ours.item() == pytest.approx(slow, rel=1e-6)
    theirs = by_torchdistill(DISTLoss(**WHERE, beta=beta, gamma=gamma, tau=temperature), student, teacher)
    # Its norms have a bound each, where the authors' code adds a small number to their product.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * temperature**2)


def test_classes_that_nobody_thinks_of_count_for_next_to_nothing_in_dist():
    """A sure teacher of a thousand classes, most of which have a probability of some 1e-9 in a batch."""
    random = torch.Generator().manual_seed(0)
    rows, classes = 8, 1000
    sure = 20 * torch.nn.functional.one_hot(torch.arange(rows) % 4, classes)
    student, teacher = (
        (sure + torch.randn(rows, classes, generator=random)).double().log_softmax(1).requires_grad_() for _ in "ab"
    )
    assert teacher.exp().median() < 5e-9
    p_s, p_t = ([softened(row, 1.0) for row in z.tolist()] for z in (student, teacher))
    slow = relation(*(list(zip(*p, strict=True)) for p in (p_s, p_t)))
    loss = dist(student, teacher, beta=0.0)
    assert loss.item() == pytest.approx(slow, rel=1e-6)
    assert loss.item() > 0.99, "four classes in a thousand correlate"
    assert dist(student.float(), teacher.float(), beta=0.0).item() == pytest.approx(slow, rel=1e-5)
    (slope,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(slope).all()


def test_dist_does_not_see_scale_and_offset():
    """Probabilities a p + b correlate as p does."""
    _, teacher = drawn(6)
    half = (0.5 * teacher.exp() + 0.5 / CLASSES).log()
    assert dist(half, teacher, gamma=0.0).item() == pytest.approx(0, abs=1e-6)
    assert dist(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


# LSKD


@TEMPERATURES
def test_lskd_is_the_definition_and_torchdistills(temperature):
    student, teacher = drawn(7)

    def standard(row):
        std = math.sqrt(sum((z - mean(row)) ** 2 for z in row) / (len(row) - 1))
        return [(z - mean(row)) / (1e-7 + std) for z in row]

    slow = temperature**2 * mean(
        divergence(softened(standard(t), temperature), softened(standard(s), temperature))
        for s, t in rows_of(student, teacher)
    )
    ours = lskd(student, teacher, temperature)
    assert ours.item() == pytest.approx(slow, rel=1e-9)
    # Their loss has its T^2 and weight only together with a label loss of some weight.
    target = torch.arange(ROWS) % CLASSES
    theirs = LogitStdKDLoss(**WHERE, temperature=temperature, alpha=0.1, beta=9.0)
    expected = 0.1 * F.cross_entropy(student, target) + 9.0 * ours
    torch.testing.assert_close(by_torchdistill(theirs, student, teacher, target), expected, rtol=1e-6, atol=1e-9)


def test_lskd_does_not_see_the_scale_of_logits():
    student, teacher = drawn(8)
    scales = torch.arange(1.0, ROWS + 1)[:, None]
    torch.testing.assert_close(lskd(student * scales, teacher), lskd(student, teacher), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(lskd(teacher * scales, teacher), torch.zeros((), dtype=torch.float64), atol=1e-9, rtol=0)


def test_lskd_with_dkd_is_dkd_of_standardised_logits():
    objective = LSKD(method="dkd", label_loss="none", beta=8.0)
    inputs = batch_for(objective)
    target = hard_labels(inputs.labels, inputs.weight)
    student, teacher = standardized(inputs.logits), standardized(inputs.targets.values)
    expected = 9 * dkd_slowly(student, teacher, target, 1.0, 8.0, 2.0)
    assert objective(inputs).total.item() == pytest.approx(expected, rel=1e-9)


# KD with a label loss


@TEMPERATURES
def test_kd_with_cross_entropy_is_torchdistills(temperature):
    student, teacher = drawn(9)
    target = torch.arange(ROWS) % CLASSES
    theirs = KDLoss(**WHERE, temperature=temperature, alpha=0.1)
    expected = 0.1 * F.cross_entropy(student, target) + 0.9 * kd(student, teacher, temperature)
    torch.testing.assert_close(by_torchdistill(theirs, student, teacher, target), expected, rtol=1e-6, atol=1e-9)


# PS-KD


def test_ps_kd_is_the_definition():
    student, past = drawn(10)
    past = past.exp()
    soft = soft_labels(*labels_of(10), CLASSES)
    slow = -mean(
        sum((0.7 * y + 0.3 * q) * math.log(p) for y, q, p in zip(row, before, softened(z), strict=True))
        for z, row, before in rows_of(student, soft, past)
    )
    assert ps_kd(student, soft, past, 0.3).item() == pytest.approx(slow, rel=1e-9)


def test_ps_kd_leaves_to_the_label_what_it_has_not_seen():
    student, past = drawn(11)
    past, soft = past.exp(), soft_labels(*labels_of(11), CLASSES)
    labels_alone = ps_kd(student, soft, past, 0.0)
    assert torch.equal(ps_kd(student, soft, torch.zeros_like(past), 0.8), labels_alone)
    half = ps_kd(student, soft, past / 2, 0.8)
    torch.testing.assert_close(half, ps_kd(student, soft, past, 0.4))


def test_ps_kd_trusts_the_past_more_from_epoch_to_epoch():
    objective = PSKD(alpha=0.8)
    inputs = batch_for(objective)
    soft = soft_labels(inputs.labels, inputs.weight, CLASSES)
    for epoch, alpha in ((0, 0.08), (4, 0.4), (9, 0.8)):
        expected = ps_kd(inputs.logits, soft, inputs.past_probs, alpha)
        torch.testing.assert_close(objective(replace(inputs, epoch=epoch)).total, expected)


def test_ps_kd_without_a_past_is_refused():
    with pytest.raises(UsageError, match="past predictions"):
        PSKD()(replace(batch_for(PSKD()), past_probs=None))
