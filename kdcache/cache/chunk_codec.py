"""What the cache asks of whoever compresses: a chunk of an array to bytes, and back."""

from abc import ABC, abstractmethod

import numpy as np

from kdcache.targets.base import ArraySpec


class ChunkCodec(ABC):
    """Turns a chunk of an array into the bytes that are kept of it and back."""

    spec: ArraySpec

    @property
    @abstractmethod
    def most_bytes(self) -> int:
        """No chunk takes more."""

    @abstractmethod
    def encode(self, values: np.ndarray) -> bytes:
        """The same values always give the same bytes."""

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """Raises CorruptError where the bytes cannot be decoded."""
