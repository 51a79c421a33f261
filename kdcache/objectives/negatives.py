"""Samples that a sample is told apart from: drawn from other classes."""

import torch
from jaxtyping import Int64
from torch import Tensor

from kdcache.errors import UsageError


class Negatives:
    """Draws numbers of samples, evenly and with replacement, among those whose label differs.

    Noise that can repeat itself is what noise-contrastive estimation supposes; the code of "Contrastive Representation
    Distillation" draws without replacement where a class leaves enough, as its paper's "exact" mode.
    """

    def __init__(self, labels: Int64[Tensor, "n"]) -> None:
        """
        Args:
            labels: of every sample, in the order of their numbers; one labelled -1 differs from all others. On the
                device to draw on.

        Raises:
            UsageError: a class that has no sample beside it.
        """
        alone = torch.arange(len(labels), device=labels.device) + labels.max() + 1
        classes, label, sizes = torch.unique(
            torch.where(labels < 0, alone, labels), return_inverse=True, return_counts=True
        )
        if len(classes) < 2:
            raise UsageError(
                "All samples are of one class, so that none can be told from the others: use another objective, or "
                "other data."
            )
        # Samples by class: those of one class are a range of places, and the others all places but that range.
        self._by_class = torch.argsort(label, stable=True)
        self._first = (sizes.cumsum(0) - sizes)[label]
        self._size = sizes[label]

    def draw(self, samples: Int64[Tensor, "b"], count: int, generator: torch.Generator) -> Int64[Tensor, "b {count}"]:
        """For each of these samples, `count` others of other classes.

        Args:
            generator: on the labels' device.
        """
        first, size = self._first[samples, None], self._size[samples, None]
        others = len(self._by_class) - size
        shape = (len(samples), count)
        even = torch.rand(shape, dtype=torch.float64, generator=generator, device=first.device)
        place = torch.minimum((even * others).long(), others - 1)
        return self._by_class[place + size * (place >= first)]
