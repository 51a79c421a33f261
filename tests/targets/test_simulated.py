"""How much a simulated ImageNet teacher's outputs lose by being kept in a few bytes."""

import numcodecs
import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.cache.zarr_form import encoded_bytes
from kdcache.targets.class_order_calibration import learn_order
from kdcache.targets.kinds import create_codec
from support.simulated_teacher import simulate

ROWS, PILOT, CLASSES = 4000, 8000, 1000

Outputs = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def everything() -> Outputs:
    """Log-probabilities float32 [n, 1000] and labels int64 [n, 2], without partners."""
    label, log_prob = simulate(ROWS + PILOT, classes=CLASSES)
    labels = np.stack([label, np.full_like(label, -1)], 1)
    return torch.log_softmax(torch.from_numpy(log_prob[0]), 1), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def teacher(everything: Outputs) -> Outputs:
    """The outputs that are stored."""
    return everything[0][:ROWS], everything[1][:ROWS]


@pytest.fixture(scope="module")
def order(everything: Outputs) -> np.ndarray:
    """An order that was learned from the others."""
    calibration = create_codec("topk", CLASSES).select(everything[0][ROWS:], torch.full((PILOT, 2), -1))
    return learn_order(calibration, None).table  # type: ignore[arg-type]


def loss_and_bytes(teacher: Outputs, order: np.ndarray | None = None, **parameters: float) -> tuple[float, float]:
    """Mean KL(full || rebuilt) in nats after storing and reading, and stored bytes a view."""
    full, labels = teacher
    tables = None if order is None else {"order": order}
    codec = create_codec("topk", CLASSES, tables, **parameters)
    kept = codec.select(full, labels)
    rebuilt = codec.decode(codec.encode(kept, 4096), ROWS).with_labels(labels).log_probs(num_classes=CLASSES)
    assert torch.allclose(rebuilt.double().exp().sum(1), torch.ones(ROWS, dtype=torch.float64), atol=1e-5)
    kl = (full.exp() * (full - rebuilt)).sum(1).mean().item()
    return kl, sum(encoded_bytes(codec, kept).values()) / ROWS


def plain_top_k(teacher: Outputs, k: int) -> tuple[float, float]:
    """The same of fp16 probabilities and int16 classes under the best of Blosc's zstd settings."""
    full = teacher[0]
    prob, classes = full.exp().topk(k)
    tail = (1 - prob.sum(1, keepdim=True)) / (CLASSES - k)
    rebuilt = tail.log().repeat(1, CLASSES).scatter_(1, classes, prob.log())
    parts = [prob.half().numpy(), classes.short().numpy()]
    codecs = [numcodecs.Blosc("zstd", level, shuffle) for level in (5, 9) for shuffle in (0, 1, 2)]
    size = sum(min(len(codec.encode(part)) for codec in codecs) for part in parts)
    return (full.exp() * (full - rebuilt)).sum(1).mean().item(), size / ROWS


def test_the_teacher_is_like_a_strong_one(teacher: Outputs) -> None:
    full, labels = teacher
    assert full.exp().amax(1).mean().item() == pytest.approx(0.763, abs=0.015)
    assert (full.argmax(1) == labels[:, 0]).double().mean().item() == pytest.approx(0.87, abs=0.02)


def test_it_is_a_fraction_of_a_fixed_top_20_and_closer(teacher: Outputs, order: np.ndarray) -> None:
    """With a classifier's weights and more outputs to learn from it is 0.153 of it (docs/compact.md)."""
    plain_kl, plain_size = plain_top_k(teacher, 20)
    kl, size = loss_and_bytes(teacher, order)
    assert kl <= plain_kl
    assert size <= 0.18 * plain_size


def test_a_learned_order_makes_classes_smaller_and_changes_nothing_else(teacher: Outputs, order: np.ndarray) -> None:
    kl, size = loss_and_bytes(teacher)
    ordered_kl, ordered_size = loss_and_bytes(teacher, order)
    assert ordered_kl == pytest.approx(kl, rel=0.01)
    assert ordered_size < 0.85 * size


def test_a_lower_threshold_loses_less_and_takes_more(teacher: Outputs) -> None:
    curve = [loss_and_bytes(teacher, min_prob=p) for p in (0.0125, 0.0033, 0.0008)]
    assert curve == sorted(curve, reverse=True)
    assert [size for _, size in curve] == sorted(size for _, size in curve)


def test_a_fixed_k_is_what_a_fixed_k_is(teacher: Outputs) -> None:
    kl, size = loss_and_bytes(teacher, k=10, min_prob=0.0, bits=8)
    plain_kl, plain_size = plain_top_k(teacher, 10)
    assert kl == pytest.approx(plain_kl, rel=0.02)
    assert size < plain_size


def test_eight_bits_of_level_lose_nothing_that_matters(teacher: Outputs) -> None:
    full, labels = teacher
    kept = create_codec("topk", CLASSES).select(full, labels)
    unquantised = (full.exp() * (full - kept.log_probs(num_classes=CLASSES))).sum(1).mean().item()
    assert loss_and_bytes(teacher, bits=8)[0] < unquantised + 1e-4
    assert loss_and_bytes(teacher, bits=5)[0] < unquantised + 3e-3
