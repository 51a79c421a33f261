"""Memory of large tensors on the CPU, used again for the next batch.

The C library asks the system for each tensor of many megabytes and gives it back at once, and the system fills its
pages with zeros at their first use: for a float32 batch of 128 images of 224 pixels, 19,000 page faults, which take
several times as long as a normalisation of the batch.
"""

import math
from collections import deque
from collections.abc import Sequence
from weakref import finalize

import torch
from torch import Tensor

#: Pieces of memory that are kept while no tensor lies in them. A stream has few batches in the making at a time.
_MOST_FREE = 4
#: Bytes from which on memory is kept here. The C library itself keeps smaller pieces.
_LARGE = 1 << 20


class ReusedMemory:
    """Allocates tensors on the CPU in the memory of earlier ones that nobody holds any more.

    A consumer may keep a tensor, a view of it or its array as long as it likes: its memory is free when the last of
    them is gone, which Python's and torch's reference counts tell. Any thread may allocate, and end a tensor.
    """

    def __init__(self) -> None:
        self._free: deque[Tensor] = deque(maxlen=_MOST_FREE)

    def empty_like(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a tensor of the shape, the order in memory and the device of `tensor`, whose values are not set."""
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return torch.empty_like(tensor, dtype=dtype)
        return self.empty(tensor.shape, dtype)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor of this shape on the CPU, whose values are not set."""
        count = math.prod(shape) * dtype.itemsize
        if count < _LARGE:
            return torch.empty(shape, dtype=dtype)
        memory = self._take(count)
        # The storage of the tensor holds this array, however many tensors share the storage, and ends it when it ends.
        lent = memory.numpy()[:count]
        finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(dtype).view(*shape)

    def _take(self, count: int) -> Tensor:
        """Take free memory of at least `count` bytes, or new memory; smaller free memory is given up."""
        while True:
            try:
                memory = self._free.popleft()  # a single step: another thread may take or return memory meanwhile
            except IndexError:
                return torch.empty(count, dtype=torch.uint8)
            if memory.numel() >= count:
                return memory
