"""A relation under DDP is the one of the whole batch, and so are its gradients."""

import pytest
import torch

from kdcache.objectives.gathering import gather_rows, mean_of_ranks
from support.ranks import on_ranks
from support.related_ranks import OF_OBJECTIVES, relate


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    return on_ranks(relate, 2, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone():
    return relate(0, 1)


FUNCTIONS = ("rkd", "pkt", "sp", "cc_kernel", "cc", "crd", "crd again", "memory")


@pytest.mark.parametrize("name", [*FUNCTIONS, *(f"{name}()" for name in OF_OBJECTIVES)])
def test_two_ranks_find_what_one_process_finds(alone, on_two, name):
    assert any(any(value) if isinstance(value, list) else value for value in alone[name])
    for rank in on_two:
        assert len(rank[name]) == len(alone[name])
        for here, expected in zip(rank[name], alone[name], strict=True):
            torch.testing.assert_close(
                torch.tensor(here, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)
            )


def test_ranks_hold_one_memory(on_two):
    assert on_two[0]["memory"] == on_two[1]["memory"]


def test_alone_there_is_nothing_to_gather():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
    mean = mean_of_ranks(rows)
    assert torch.equal(mean, rows)
    assert not mean.requires_grad
