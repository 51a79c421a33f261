"""Samples that a sample is told apart from: drawn from other classes."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.objectives.gathering import place_among_ranks


class Negatives(nn.Module):
    """Draws numbers of samples, evenly and with replacement, among those whose label differs.

    Noise that can repeat itself is what noise-contrastive estimation supposes; the code of "Contrastive Representation
    Distillation" draws without replacement where a class leaves enough, as its paper's "exact" mode.

    All draws of a training are one sequence, a number for each row of each batch and each negative: so they are the
    same on every device and for any number of processes, and go on from the state dict.
    """

    def __init__(self, labels: Int64[Tensor, "n"], seed: int) -> None:
        """
        Args:
            labels: label of every sample, in the order of their numbers; one labelled -1 differs from all others.
            seed: seed of the sequence, 0..2^63-1.

        Raises:
            UsageError: a class that has no sample beside it.
        """
        super().__init__()
        alone = torch.arange(len(labels)) + labels.max() + 1
        classes, label, sizes = torch.unique(
            torch.where(labels < 0, alone, labels), return_inverse=True, return_counts=True
        )
        if len(classes) < 2:
            raise UsageError(
                "All samples are of one class, so that none can be told from the others: use another objective, or "
                "other data."
            )
        # Samples by class: those of one class are a range of places, and the others all places but that range.
        self.register_buffer("_by_class", torch.argsort(label, stable=True), persistent=False)
        self.register_buffer("_first", (sizes.cumsum(0) - sizes)[label], persistent=False)
        self.register_buffer("_size", sizes[label], persistent=False)
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("drawn", torch.tensor(0))

    _by_class: Tensor
    _first: Tensor
    _size: Tensor
    seed: Tensor
    drawn: Tensor

    def forward(self, samples: Int64[Tensor, "b"], count: int) -> Int64[Tensor, "b {count}"]:
        """Draw `count` samples of other classes for each of these samples; the sequence moves on.

        Under DDP every rank calls it with as many samples: those of the whole batch follow each other by rank.
        """
        rank, world = place_among_ranks()
        rows = len(samples)
        places = torch.arange(rank * rows * count, (rank + 1) * rows * count, device=samples.device)
        even = split_mix(self.seed, self.drawn + places).view(rows, count)
        self.drawn += world * rows * count
        first, size = self._first[samples, None], self._size[samples, None]
        others = len(self._by_class) - size
        place = torch.minimum((even * others).long(), others - 1)
        return self._by_class[place + size * (place >= first)]


def split_mix(seed: Int64[Tensor, ""], places: Int64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """Return numbers in 0..1, below 1, at places of SplitMix64's sequence: its upper 53 bits.

    Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators". Any place costs the same, on any device.
    """
    mixed = seed + (places + 1) * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(mixed ^ _shifted(mixed, 31), 11).double() * 2.0**-53


def _signed(word: int) -> int:
    """Return a 64-bit word as torch's integers, which wrap around, hold it."""
    return word - 2**64


def _shifted(words: Int64[Tensor, "n"], bits: int) -> Int64[Tensor, "n"]:
    """Shift words to the right, zeros coming in: torch would bring in the sign."""
    return (words >> bits) & (2 ** (64 - bits) - 1)
