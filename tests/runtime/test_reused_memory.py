"""Memory of a large tensor is used again when nobody holds it any more, and not before."""

import gc
import threading

import numpy as np
import pytest
import torch

from kdcache.runtime.reused_memory import ReusedMemory

SHAPE = (2, 3, 512, 512)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_tensor_has_the_shape_and_the_memory_of_an_earlier_one(dtype):
    memory = ReusedMemory()
    first = memory.empty(SHAPE, dtype)
    assert (first.shape, first.dtype, first.is_contiguous()) == (SHAPE, dtype, True)
    first.fill_(7)
    place = first.data_ptr()
    assert place % 64 == 0  # as torch aligns its own
    del first
    again = memory.empty(SHAPE, dtype)
    assert again.data_ptr() == place
    assert (again == 7).all()


@pytest.mark.parametrize(
    "hold",
    [
        lambda tensor: tensor[1:, 0],
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.detach(),
        lambda tensor: np.asarray(tensor)[0],
        # Autograd keeps what a backward pass needs.
        lambda tensor: tensor * torch.ones(SHAPE, requires_grad=True),
    ],
)
def test_memory_that_anything_shares_is_not_given_away(hold):
    memory = ReusedMemory()
    first = memory.empty(SHAPE, torch.float32).fill_(1)
    place = first.data_ptr()
    held = hold(first)
    del first
    gc.collect()
    assert memory.empty(SHAPE, torch.float32).data_ptr() != place
    del held
    gc.collect()
    assert place in [tensor.data_ptr() for tensor in [memory.empty(SHAPE, torch.float32) for _ in range(2)]]


def test_a_smaller_batch_takes_the_memory_of_a_larger_one_and_not_the_other_way_round():
    memory = ReusedMemory()
    large = memory.empty((4, 512, 512), torch.float32)
    place = large.data_ptr()
    del large
    small = memory.empty((3, 512, 512), torch.float32)
    assert small.data_ptr() == place
    assert small.shape == (3, 512, 512)
    del small
    larger = memory.empty((8, 512, 512), torch.float32)
    larger.fill_(1)
    assert larger.untyped_storage().nbytes() >= 8 * 512 * 512 * 4


def test_few_pieces_are_kept():
    memory = ReusedMemory()
    many = [memory.empty((1 << 20,), torch.uint8) for _ in range(20)]
    del many
    assert len(memory._free) == 4


def test_a_tensor_outlives_what_allocated_it():
    memory = ReusedMemory()
    tensor = memory.empty(SHAPE, torch.float32).fill_(3)
    del memory
    gc.collect()
    assert (tensor == 3).all()


def test_threads_never_share_memory():
    memory = ReusedMemory()
    wrong = []

    def work(number):
        for _ in range(50):
            tensor = memory.empty((1 << 20,), torch.uint8).fill_(number)
            if not (tensor == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_not_contiguous_keeps_its_order_in_memory():
    like = torch.zeros(SHAPE).contiguous(memory_format=torch.channels_last)
    made = ReusedMemory().empty_like(like, torch.float32)
    assert made.stride() == like.stride()
    assert ReusedMemory().empty_like(torch.zeros(SHAPE, device="meta"), torch.float32).device.type == "meta"
