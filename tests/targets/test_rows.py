"""Rows that are picked and joined are those that torch picks and joins, wherever they lie."""

import pytest
import torch

from kdcache.targets.rows import joined, rows_of

VALUES = torch.arange(60).view(5, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize("rows", [torch.tensor([3, 0, 3]), torch.tensor([], dtype=torch.int64), slice(1, 4)])
def test_rows_are_those_at_their_positions(dtype, rows):
    values = VALUES.to(dtype)
    assert torch.equal(rows_of(values, rows), values[rows])
    assert torch.equal(rows_of(values.transpose(1, 2), rows), values.transpose(1, 2)[rows])


def test_rows_that_are_none_are_an_error():
    with pytest.raises(IndexError):
        rows_of(VALUES, torch.tensor([5]))


@pytest.mark.parametrize("counts", [(5,), (2, 3), (0, 5), (1, 1, 3)])
def test_parts_are_joined_in_their_order(counts):
    assert torch.equal(joined(VALUES.split(counts)), VALUES)


def test_what_lies_elsewhere_stays_there():
    values = VALUES.to("meta")
    assert rows_of(values, torch.tensor([1, 2], device="meta")).device.type == "meta"
    assert joined([values, values]).shape == (10, 3, 4)
