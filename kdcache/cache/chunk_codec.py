"""The interface of compression: a chunk of an array to bytes, and back."""

from abc import ABC, abstractmethod

import numpy as np

from kdcache.targets.base import ArraySpec


class ChunkCodec(ABC):
    """Turns a chunk of an array into the bytes that are kept of it and back."""

    spec: ArraySpec

    @property
    @abstractmethod
    def most_bytes(self) -> int:
        """The number of bytes that no compressed chunk exceeds."""

    @abstractmethod
    def encode(self, values: np.ndarray) -> bytes:
        """Compress a chunk; the same values always give the same bytes."""

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """Decompress a chunk. Raises CorruptError where the bytes cannot be decoded."""
