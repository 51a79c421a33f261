"""A stream of a GPU's own for work that runs ahead of who uses its results.

Work that is launched in torch's current stream stands in one row with the training's: a training step that needs batch
n would wait for the decoding of batch n + 3, if that was asked for before. In a stream beside it, the step waits for
the event of its own batch.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Launched(Generic[T]):
    """A result whose work has been launched in a side stream.

    Attributes:
        result: result, whose values may not be there yet.
        tensors: tensors of the result that lie on the device.
        end: event in the side stream behind that work; None for a device that has no streams.
    """

    result: T
    tensors: Sequence[Tensor]
    end: Any = None

    def take(self) -> T:
        """Return the result, for use in torch's current stream, which waits for it; the host does not."""
        if self.end is not None:
            current = torch.cuda.current_stream(self.tensors[0].device)
            current.wait_event(self.end)
            for tensor in self.tensors:
                # Its memory belongs to the side stream: without this, it would be given to the next batch there as soon
                # as the host has dropped the tensor, while the current stream may still read it.
                tensor.record_stream(current)
        return self.result


class SideStream:
    """A stream of a GPU beside the current one; on another device, where work is done when it returns, nothing."""

    def __init__(self, device: torch.device) -> None:
        """`device`: device of the work."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def entered(self) -> AbstractContextManager[Any]:
        """Make it the current stream of this thread within a `with` block.

        In a generator the block has to end before the generator is used in another thread.
        """
        return torch.cuda.stream(self._stream)

    def launched(self, result: T, tensors: Sequence[Tensor]) -> Launched[T]:
        """Return a result, and an event behind all work that has been launched in this stream so far."""
        return Launched(result, tensors, None if self._stream is None else self._stream.record_event())
