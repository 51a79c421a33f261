"""Colour jitter is drawn as torchvision's ColorJitter."""

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter

from kdcache.views.operations import Operation
from kdcache.views.policy import Policy
from support.distributions import counts_differ, differ
from support.plans import plan_of

COUNT = 8_000
OPERATIONS = np.array([Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR, Operation.HUE])


def jitter(amounts, prob=1.0):
    plan = plan_of(Policy(color_jitter=amounts, color_jitter_prob=prob), 3 * COUNT, seed=3)
    return plan.op, plan.magnitude


def torchvisions(amounts):
    """Operations and factors in the order in which they are applied."""
    torch.manual_seed(0)
    transform = ColorJitter(*amounts)
    ranges = (transform.brightness, transform.contrast, transform.saturation, transform.hue)
    op, magnitude = [], []
    for _ in range(COUNT):
        order, *factors = ColorJitter.get_params(*ranges)
        order = [int(position) for position in order if factors[position] is not None]
        op.append(OPERATIONS[order])
        magnitude.append([factors[position] for position in order])
    return np.array(op), np.array(magnitude)


def differences(ours, theirs):
    found = []
    orders = [(op.astype(int) * 32 ** np.arange(op.shape[1])).sum(axis=1) for op, _ in (ours, theirs)]
    if counts_differ(*orders):
        found.append("order")
    for operation in OPERATIONS:
        if differ(*(magnitude[op == operation] for op, magnitude in (ours, theirs))):
            found.append(Operation(operation).name)
    return found


@pytest.mark.parametrize("amounts", [(0.3, 0.3, 0.3, 0.0), (0.4, 0.0, 1.5, 0.1), (0.0, 0.0, 0.0, 0.5)])
def test_orders_and_factors_are_distributed_as_torchvisions(amounts):
    assert differences(jitter(amounts), torchvisions(amounts)) == []


def test_a_wrong_range_or_a_fixed_order_would_show():
    theirs = torchvisions((0.4, 0.4, 0.4, 0.1))
    assert differences(jitter((0.4, 0.45, 0.4, 0.1)), theirs) == ["CONTRAST"]
    assert differences(jitter((0.4, 0.4, 0.4, 0.12)), theirs) == ["HUE"]
    op, magnitude = jitter((0.4, 0.4, 0.4, 0.1))
    place = np.argsort(op, axis=1)
    in_order = np.take_along_axis(op, place, 1), np.take_along_axis(magnitude, place, 1)
    assert differences(in_order, theirs) == ["order"]


def test_all_of_it_or_nothing_is_applied():
    op, magnitude = jitter((0.3, 0.3, 0.3, 0.0), prob=0.25)
    applied = (op != Operation.IDENTITY).sum(axis=1)
    assert set(applied) == {0, 3}
    assert abs((applied == 3).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(op))
    assert (magnitude[op == Operation.IDENTITY] == 0).all()


def test_it_comes_after_the_other_operations():
    plan = plan_of(Policy(auto_augment="3a", color_jitter=(0.3, 0.3, 0.0, 0.0)), 50)
    assert plan.op.shape == (50, 3)
    assert set(plan.op[:, 1:].ravel()) == {Operation.BRIGHTNESS, Operation.CONTRAST}
    assert np.array_equal(plan.op[:, :1], plan_of(Policy(auto_augment="3a"), 50).op)
