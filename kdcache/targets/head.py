"""A teacher's classifier, where it is one linear layer: what makes logits of features."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from kdcache.errors import CorruptError

#: The largest number that half precision has: a weight or a feature beyond it is none of a working teacher.
LARGEST = 65504.0


@dataclass(frozen=True, eq=False)
class Head:
    """logits = features W^T + bias, from one table: row c has the weights of class c, and then its bias.

    The table goes to a device with the first features that lie there, and stays. Raises CorruptError for a table with
    values that no classifier has.
    """

    table: Float32[np.ndarray, "c d1"]
    _there: dict[torch.device, Float32[Tensor, "c d1"]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not bool((np.abs(self.table) <= LARGEST).all()):  # false for NaN as well
            raise CorruptError("The classifier has weights that are no numbers, or too large.")

    @classmethod
    def of(cls, weight: Float[Tensor, "c d"], bias: Float[Tensor, "c"]) -> "Head":
        """Return the head with these weights and biases."""
        return cls(torch.cat([weight, bias[:, None]], 1).detach().to("cpu", torch.float32).numpy())

    @cached_property
    def checksum(self) -> str:
        """BLAKE2b-128 of the table, row by row as little-endian float32, in hex."""
        return hashlib.blake2b(np.ascontiguousarray(self.table, "<f4").tobytes(), digest_size=16).hexdigest()

    def log_probs(self, features: Float32[Tensor, "b d"], temperature: float = 1.0) -> Float32[Tensor, "b c"]:
        """Return log_softmax(logits / temperature), computed in float32 where the features lie."""
        table = self._on(features.device)
        with torch.autocast(features.device.type, enabled=False):
            logits = torch.addmm(table[:, -1], features, table[:, :-1].T)
        return torch.log_softmax(logits / temperature, 1)

    def _on(self, device: torch.device) -> Float32[Tensor, "c d1"]:
        if device not in self._there:
            self._there[device] = torch.from_numpy(self.table).to(device)
        return self._there[device]
