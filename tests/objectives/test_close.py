"""What "close" says of a top-k: a gradient that is off by at most twice the mass that was left out."""

import dataclasses

import numpy as np
import pytest
import torch

from kdcache.objectives.registry import OBJECTIVES
from kdcache.targets.kinds import create_codec
from support.batches import FixedTargets, batch_for
from support.simulated_teacher import simulate

ROWS, CLASSES = 300, 1000

#: Those that are close as they are, or at T = 1.
CLOSE = {"kd": {}, "bkl": {}, "wsld": {"temperature": 1.0}, "ipwd": {"temperature": 1.0}}


@pytest.fixture(scope="module")
def targets():
    """Full targets with what is kept of them, and the mass that is left out of each row: not of labels either."""
    label, log_prob = simulate(ROWS, classes=CLASSES)
    full = torch.log_softmax(torch.from_numpy(log_prob[0]), 1)
    labels = torch.from_numpy(np.stack([label, np.roll(label, 1)], 1))
    return full, labels, create_codec("topk", CLASSES).select(full, labels)


@pytest.mark.parametrize("name", CLOSE)
def test_the_gradient_is_off_by_at_most_twice_the_tail(name, targets):
    full, labels, kept = targets
    objective = dataclasses.replace(OBJECTIVES[name], kd_weight=1.0, label_weight=0.0, **CLOSE[name])
    batch = dataclasses.replace(batch_for(objective, rows=ROWS, classes=CLASSES, dtype=torch.float32), labels=labels)
    off = gradient(objective, batch, FixedTargets(full)) - gradient(objective, batch, kept)
    weight = weights(objective, batch) if name == "ipwd" else 1.0
    bound = 2 * kept.tail * weight
    assert (off.abs().sum(1) <= bound + 1e-5).all()
    assert (off.abs().sum(1) > 0.1 * bound).any(), "the bound is of the gradient's own size"


def gradient(objective, batch, targets):
    """Of each row's own loss, before the mean over rows; of `bkl`, before that over classes."""
    logits = batch.logits.clone().requires_grad_()
    loss = objective.distil(dataclasses.replace(batch, logits=logits, targets=targets))
    return ROWS * (CLASSES if objective.name == "bkl" else 1) * torch.autograd.grad(loss, logits)[0]


def weights(objective, batch):
    """IPWD's of each row: by how much its loss is larger than without any."""
    inputs = dataclasses.replace(batch, targets=FixedTargets(torch.full_like(batch.logits, -np.log(CLASSES))))
    plain = dataclasses.replace(OBJECTIVES["kd"], kd_weight=1.0, label_weight=0.0)
    ours, theirs = gradient(objective, inputs, inputs.targets), gradient(plain, inputs, inputs.targets)
    return ours.abs().sum(1) / theirs.abs().sum(1)
