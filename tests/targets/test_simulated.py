"""How much a simulated ImageNet teacher's answers lose by being kept in a few bytes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.cache.store import encoded_bytes
from kdcache.targets.kinds import make_coding
from support.simulated_teacher import simulate


@pytest.fixture(scope="module")
def teacher() -> tuple[Tensor, Tensor]:
    """Log-probabilities float32 [4000, 1000] and labels int64 [4000, 2]."""
    label, log_prob = simulate(4000)
    partner = np.roll(label, 1)
    return torch.log_softmax(torch.from_numpy(log_prob[0]), 1), torch.from_numpy(np.stack([label, partner], 1))


def loss_and_bytes(teacher: tuple[Tensor, Tensor], **parameters: float) -> tuple[float, float]:
    """Mean KL(full || rebuilt) in nats after storing and reading, and stored bytes a view."""
    full, labels = teacher
    coding = make_coding("topk", 1000, **parameters)
    kept = coding.keep(full, labels)
    rebuilt = coding.unpack(coding.pack(kept, 4096), 4000).with_labels(labels).log_probs(1000)
    assert torch.allclose(rebuilt.double().exp().sum(1), torch.ones(4000, dtype=torch.float64), atol=1e-5)
    kl = (full.exp() * (full - rebuilt)).sum(1).mean().item()
    return kl, sum(encoded_bytes(coding, kept).values()) / 4000


def test_the_teacher_is_like_a_strong_one(teacher: tuple[Tensor, Tensor]) -> None:
    full, labels = teacher
    assert full.exp().amax(1).mean().item() == pytest.approx(0.763, abs=0.015)
    assert -(full.exp() * full).sum(1).mean().item() == pytest.approx(1.31, abs=0.06)
    assert (full.argmax(1) == labels[:, 0]).double().mean().item() == pytest.approx(0.87, abs=0.02)


def test_a_threshold_loses_little(teacher: tuple[Tensor, Tensor]) -> None:
    kl, size = loss_and_bytes(teacher, min_prob=0.0031)
    assert kl <= 0.045
    assert size <= 18


def test_a_threshold_is_smaller_and_closer_than_a_fixed_k(teacher: tuple[Tensor, Tensor]) -> None:
    fixed_kl, fixed_size = loss_and_bytes(teacher, k=20, min_prob=0.0)
    kl, size = loss_and_bytes(teacher, min_prob=0.0031)
    assert kl < fixed_kl
    assert size < 0.6 * fixed_size


def test_a_lower_threshold_loses_less_and_takes_more(teacher: tuple[Tensor, Tensor]) -> None:
    curve = [loss_and_bytes(teacher, min_prob=p) for p in (0.0125, 0.0031, 0.0008)]
    assert curve == sorted(curve, reverse=True)
    assert [size for _, size in curve] == sorted(size for _, size in curve)


def test_eight_bits_of_level_lose_nothing_that_matters(teacher: tuple[Tensor, Tensor]) -> None:
    full, labels = teacher
    coding = make_coding("topk", 1000, min_prob=0.0031, bits=8)
    kept = coding.keep(full, labels)
    unquantised = (full.exp() * (full - kept.log_probs(1000))).sum(1).mean().item()
    assert loss_and_bytes(teacher, min_prob=0.0031, bits=8)[0] < unquantised + 1e-4
