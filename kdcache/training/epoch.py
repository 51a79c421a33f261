"""The figures that a training reports of an epoch: mean losses, and images a second."""

import math
import time
from typing import Any

import torch

from kdcache.runtime.distributed import Distributed


class EpochLosses:
    """Sums of an epoch's losses, kept on the device so that no step waits for them."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._names = ("loss", *parts)
        self.clear()

    def clear(self) -> None:
        """Set all sums to 0 for the next epoch."""
        self._sums: torch.Tensor | None = None
        self._steps = 0

    def add(self, losses: Any) -> None:
        """Add the losses of one step (`kdcache.objectives.base.Losses`)."""
        values = torch.stack([losses.total, *losses.parts.values()]).detach().double()
        self._sums = values if self._sums is None else self._sums.to(values.device) + values
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


class Clock:
    """Counts images a second, evaluation and saving left out."""

    def __init__(self) -> None:
        self._images = self._lap_images = 0
        self._seconds = self._lap_seconds = 0.0
        self._since = time.perf_counter()

    def count(self, images: int) -> None:
        """Add a number of images that have been trained on."""
        self._images += images

    def pause(self) -> None:
        """Stop counting seconds."""
        self._seconds += time.perf_counter() - self._since

    def go_on(self) -> None:
        """Count seconds again."""
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return the images a second since the last call; call it while the clock is paused."""
        images, seconds = self._images - self._lap_images, self._seconds - self._lap_seconds
        self._lap_images, self._lap_seconds = self._images, self._seconds
        return images / max(seconds, 1e-9)

    @property
    def images_per_s(self) -> float | None:
        """The images a second over all time between `go_on` and `pause` so far."""
        return self._images / self._seconds if self._seconds else None
