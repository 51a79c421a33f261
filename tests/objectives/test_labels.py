import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from kdcache.objectives.labels import binary_cross_entropy, cross_entropy, soft_labels

CLASSES = 6


def drawn(seed, rows=8, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, CLASSES, generator=random, dtype=dtype) * 4
    labels = torch.randint(CLASSES, (rows,), generator=random)
    return logits, labels


def unmixed(labels):
    return torch.stack([labels, torch.full_like(labels, -1)], dim=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_soft_labels_are_those_of_timms_mixup(weight, smoothing):
    # timm mixes row i with row n-1-i.
    _, labels = drawn(0)
    pairs = torch.stack([labels, labels.flip(0)], dim=1)
    soft = soft_labels(pairs, torch.full((8,), weight), CLASSES, smoothing)
    torch.testing.assert_close(soft, mixup_target(labels, CLASSES, weight, smoothing), rtol=1e-6, atol=1e-7)


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 0.99))
def test_soft_labels_sum_to_one_and_are_smoothed_once(seed, weight, smoothing):
    _, labels = drawn(seed)
    pairs = torch.stack([labels, labels.roll(1)], dim=1)
    soft = soft_labels(pairs, torch.full((8,), weight, dtype=torch.float64), CLASSES, smoothing)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(8, dtype=torch.float64))
    assert soft.min().item() == pytest.approx(smoothing / CLASSES)


@pytest.mark.parametrize("weight", [0.0, 0.4, math.nan])
def test_without_a_partner_the_own_label_counts_whatever_the_weight(weight):
    _, labels = drawn(1)
    soft = soft_labels(unmixed(labels), torch.full((8,), weight), CLASSES)
    assert torch.equal(soft, torch.nn.functional.one_hot(labels, CLASSES).float())


def test_each_row_has_its_own_weight():
    soft = soft_labels(torch.tensor([[0, 1], [1, 0]]), torch.tensor([0.25, 0.75]), 3)
    assert soft.tolist() == [[0.25, 0.75, 0.0], [0.25, 0.75, 0.0]]


@pytest.mark.parametrize("labels", [[[CLASSES, -1]], [[-1, -1]]])
def test_a_label_that_is_no_class_is_never_taken_for_one(labels):
    with pytest.raises(RuntimeError, match="index"):
        soft_labels(torch.tensor(labels), torch.ones(1), CLASSES)


def soft_of(seed):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(8, CLASSES, generator=random, dtype=torch.float64), dim=1)


def test_cross_entropy_is_timms():
    logits, labels = drawn(2)
    soft = soft_of(2)
    torch.testing.assert_close(cross_entropy(logits, soft), SoftTargetCrossEntropy()(logits, soft))
    smoothed = soft_labels(unmixed(labels), torch.ones(8, dtype=torch.float64), CLASSES, 0.1)
    torch.testing.assert_close(cross_entropy(logits, smoothed), LabelSmoothingCrossEntropy(0.1)(logits, labels))


@pytest.mark.parametrize("total", [False, True])
def test_binary_cross_entropy_is_timms(total):
    logits, labels = drawn(3)
    soft = soft_of(3)
    reference = BinaryCrossEntropy(smoothing=0.1, sum_classes=total)
    ours = binary_cross_entropy(logits, soft, sum_classes=total)
    torch.testing.assert_close(ours, reference(logits, soft))
    smoothed = soft_labels(unmixed(labels), torch.ones(8, dtype=torch.float64), CLASSES, 0.1)
    torch.testing.assert_close(binary_cross_entropy(logits, smoothed, sum_classes=total), reference(logits, labels))


@pytest.mark.parametrize("total", [False, True])
def test_binary_cross_entropy_is_the_definition(total):
    logits, _ = drawn(4)
    soft = soft_of(4)
    slow = 0.0
    for z_row, y_row in zip(logits.tolist(), soft.tolist(), strict=True):
        for z, y in zip(z_row, y_row, strict=True):
            p = 1 / (1 + math.exp(-z))
            slow -= y * math.log(p) + (1 - y) * math.log(1 - p)
    slow /= 8 if total else 8 * CLASSES
    assert binary_cross_entropy(logits, soft, sum_classes=total).item() == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy])
def test_gradients_are_right(loss):
    logits, _ = drawn(5)
    assert torch.autograd.gradcheck(lambda z: loss(z, soft_of(5)), logits.requires_grad_())


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extremes_are_finite(loss, dtype):
    logits = torch.tensor([[6e4, -6e4], [-6e4, 6e4]], dtype=dtype, requires_grad=True)
    value = loss(logits, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
