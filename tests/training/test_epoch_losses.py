"""Sums of losses over steps: in float64, each sum its own, without gradients."""

import torch

from kdcache.objectives.base import Losses
from kdcache.training.epoch import EpochLosses, loss_values


def losses(total: float, kd: float, dtype: torch.dtype) -> Losses:
    kept = torch.tensor([total, kd], dtype=dtype, requires_grad=True)
    return Losses(kept[0] * 1, {"kd": kept[1] * 1})


def test_values_of_a_step_hold_no_graph() -> None:
    values = loss_values(losses(3.0, 1.0, torch.float32))
    assert values.tolist() == [3.0, 1.0]
    assert not values.requires_grad


def test_two_sums_that_share_values_do_not_share_their_sums() -> None:
    for dtype in (torch.float32, torch.float64):
        epoch, recent = EpochLosses(("kd",)), EpochLosses(("kd",))
        for total in (1.0, 2.0, 6.0):
            values = loss_values(losses(total, 1.0, dtype))
            epoch.add(values)
            recent.add(values)
            assert values.tolist() == [total, 1.0]
        assert epoch.means() == recent.means() == {"loss": 3.0, "kd": 1.0}


def test_float32_losses_are_summed_in_float64() -> None:
    epoch = EpochLosses(("kd",))
    for total in (1.0, 2.0**-30, 2.0**-30):
        epoch.add(loss_values(losses(total, 0.0, torch.float32)))
    assert epoch.means()["loss"] == (1.0 + 2.0**-29) / 3
