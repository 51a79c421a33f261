"""Samples of data sets that come as arrays of pixels."""

from collections.abc import Sequence
from io import BytesIO

import google_crc32c
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kdcache.data.writer import NewSample


class PixelSamples:
    """Images in memory, which become PNG files.

    Attributes:
        keys: key of each image.
    """

    def __init__(
        self,
        keys: Sequence[str],
        images: UInt8[np.ndarray, "n *pixels"],
        labels: UInt8[np.ndarray, " n"],
    ) -> None:
        """Take images, [n, height, width] or [n, height, width, 3], and their labels."""
        self.keys, self._images, self._labels = keys, images, labels

    def read(self, number: int) -> NewSample:
        buffer = BytesIO()
        Image.fromarray(self._images[number]).save(buffer, "PNG")
        return NewSample(self.keys[number], "png", buffer.getvalue(), int(self._labels[number]))

    def stamp(self, number: int) -> str:
        sum_of_pixels = google_crc32c.value(np.ascontiguousarray(self._images[number]).tobytes())
        return f"{self.keys[number]} {self._labels[number]} {sum_of_pixels}"
