"""The figures that a training reports of an epoch or of some steps: mean losses, images a second, waiting."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from kdcache.objectives.base import Losses
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.energy import EnergyMeter

B = TypeVar("B")


@torch.no_grad()
def loss_values(losses: Losses) -> torch.Tensor:
    """Return the total and the parts of a step's losses [1 + parts], without gradient, on their device."""
    return torch.stack([losses.total, *losses.parts.values()])


class EpochLosses:
    """Sums of the losses of an epoch or of some steps, kept on the device so that no step waits for them."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._names = ("loss", *parts)
        self.clear()

    def clear(self) -> None:
        """Set all sums to 0 for what follows."""
        self._sums: torch.Tensor | None = None
        self._steps = 0

    def add(self, values: torch.Tensor) -> None:
        """Add the losses [1 + parts] of one step, as `loss_values` returns them."""
        if self._sums is None:
            self._sums = values.to(torch.float64, copy=True)  # a copy, because others may add the same values
        else:
            # In place: float32 values become float64 within the addition, without a tensor of their own.
            self._sums = self._sums.to(values.device).add_(values)
        self._steps += 1

    def means(self, processes: Distributed | None = None) -> dict[str, float]:
        """Return the mean of each loss over the steps so far, of this process, or of all `processes`."""
        if self._sums is None:
            return dict.fromkeys(self._names, math.nan)
        sums, count = self._sums, self._steps
        if processes is not None:
            sums, count = processes.all_reduce_sum(sums), count * processes.world_size
        return dict(zip(self._names, (sums / count).tolist(), strict=True))

    def state(self, processes: Distributed) -> dict[str, Any]:
        """Return the sums for a checkpoint in mid-epoch: the mean over all processes, times the steps."""
        sums = [] if self._sums is None else (processes.all_reduce_sum(self._sums) / processes.world_size).tolist()
        return {"steps": self._steps, "sums": sums}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the sums that `state` returned."""
        self._steps = state["steps"]
        self._sums = torch.tensor(state["sums"], dtype=torch.float64) if state["sums"] else None


@dataclass(frozen=True)
class Reading:
    """What a clock has counted up to a moment.

    Attributes:
        images: number of images.
        seconds: time of the steps.
        waited: the part of it that waited for data.
        joules: energy that this process counts in the time of the steps; None if it is not known.
    """

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    joules: float | None = 0.0

    def joules_since(self, earlier: "Reading") -> float | None:
        """Return the joules since an earlier reading; None if they are not known."""
        return None if self.joules is None or earlier.joules is None else self.joules - earlier.joules

    def since(self, earlier: "Reading") -> dict[str, float]:
        """Return images a second, and the share of the time that waited for data, since an earlier reading."""
        seconds = max(self.seconds - earlier.seconds, 1e-9)
        return {
            "images_per_s": (self.images - earlier.images) / seconds,
            "wait_share": min(1.0, (self.waited - earlier.waited) / seconds),
        }


class Clock:
    """Counts images a second, the waiting for data, and energy, evaluation and saving left out."""

    def __init__(self, energy: EnergyMeter | None = None) -> None:
        """
        Args:
            energy: meter of this process; None counts no energy.
        """
        self._energy = energy or EnergyMeter()
        self._joules: float | None = 0.0
        self._joules_since: float | None = None
        self._images = 0
        self._seconds = self._waited = 0.0
        self._since: float | None = None

    def count(self, images: int) -> None:
        """Add a number of images that have been trained on."""
        self._images += images
        self._energy.keep_up()

    def pause(self) -> None:
        """Stop counting seconds."""
        reading = self.reading()
        self._seconds, self._joules = reading.seconds, reading.joules
        self._since = None

    def go_on(self) -> None:
        """Count seconds again."""
        self._since = time.perf_counter()
        self._joules_since = self._energy.joules()

    def waited_for(self, batches: Iterable[B]) -> Iterator[B]:
        """Yield the same batches, and count the time until each of them is there."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def reading(self) -> Reading:
        """Return what was counted so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return Reading(self._images, self._seconds + running, self._waited, self._joules_so_far())

    def _joules_so_far(self) -> float | None:
        if self._since is None or self._joules is None:
            return self._joules
        now = self._energy.joules()
        return None if now is None or self._joules_since is None else self._joules + now - self._joules_since

    @property
    def images_per_s(self) -> float | None:
        """The images a second over all time between `go_on` and `pause` so far."""
        return self._images / self._seconds if self._seconds else None
