"""The energy that a job uses: counters of this process's GPU and of the machine's processors, where they can be read.

NVML counts the millijoules of a GPU since its driver was loaded (Volta and later). Linux shows the counters of Intel's
and AMD's processors (RAPL) below /sys/class/powercap in microjoules; most systems let only root read them. Memory, fans
and what the power supply loses are in neither.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pynvml
import torch

POWERCAP = Path("/sys/class/powercap")
#: A processor's counter begins again at 0 after some minutes of full power, so it is read at least this often.
SECONDS_BETWEEN_READINGS = 20.0


@dataclass(frozen=True)
class EnergyCounter:
    """One counter of energy.

    Attributes:
        name: what it counts, such as "package-0".
        read: function that returns its joules. Raises OSError or pynvml.NVMLError where it fails.
        period: joules after which it begins again at 0; None if it does not.
    """

    name: str
    read: Callable[[], float]
    period: float | None = None


class EnergyMeter:
    """Adds up the joules of several counters since the meter was made.

    A counter that fails is left out from then on, and with it the whole sum is unknown: part of the energy of a job
    would be taken for all of it.
    """

    def __init__(self, counters: Sequence[EnergyCounter] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            counters: counters that are added up; without any the energy is not known.
            clock: seconds that go on steadily.
        """
        self._counters = tuple(counters)
        self._clock = clock
        self._joules: float | None = 0.0 if self._counters else None
        self._last = self._read()
        self._read_at = clock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is counted."""
        return tuple(counter.name for counter in self._counters)

    def joules(self) -> float | None:
        """Read the counters; return the joules since the meter was made, or None if they are not known."""
        now = self._read()
        if self._joules is None or now is None or self._last is None:
            self._joules = None
            return None
        for counter, before, after in zip(self._counters, self._last, now, strict=True):
            used = after - before
            self._joules += used if counter.period is None or used >= 0 else used + counter.period
        self._last, self._read_at = now, self._clock()
        return self._joules

    def keep_up(self) -> None:
        """Read the counters if the last time was long ago, before one begins again at 0 twice."""
        if self._joules is not None and self._clock() - self._read_at >= SECONDS_BETWEEN_READINGS:
            self.joules()

    def _read(self) -> tuple[float, ...] | None:
        try:
            return tuple(counter.read() for counter in self._counters)
        except (OSError, ValueError, pynvml.NVMLError):
            return None


def open_energy_meter(
    device: torch.device, *, counts_processors: bool = True, powercap: Path = POWERCAP
) -> EnergyMeter:
    """Return a meter of the device of a job.

    For a GPU the GPU must be readable: without it there is no counter at all, as the processors' energy alone would be
    taken for that of the job.

    Args:
        device: device that the process computes on.
        counts_processors: whether the processors of the machine are counted here; of several processes on one machine
            one counts them for all.
        powercap: folder of Linux with the counters of processors.
    """
    counters = list(_processor_counters(powercap)) if counts_processors else []
    if device.type == "cuda":
        gpu = _gpu_counter(device)
        return EnergyMeter() if gpu is None else EnergyMeter([gpu, *counters])
    return EnergyMeter(counters)


def _gpu_counter(device: torch.device) -> EnergyCounter | None:
    """Return the counter of a GPU by its identifier, which CUDA_VISIBLE_DEVICES does not change."""
    with suppress(pynvml.NVMLError, AttributeError, RuntimeError):
        pynvml.nvmlInit()
        properties = torch.cuda.get_device_properties(device)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        counter = EnergyCounter(properties.name, lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
        counter.read()
        return counter
    return None


def _processor_counters(powercap: Path) -> list[EnergyCounter]:
    """Return a counter for each processor package; none where one of them cannot be read."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package"):  # parts of a package, and the whole platform, would be counted twice
                continue
            period = int((zone / "max_energy_range_uj").read_text()) / 1e6
            counter = EnergyCounter(name, partial(_joules_in, zone / "energy_uj"), period)
            counter.read()
        except (OSError, ValueError):
            return []
        found.append(counter)
    return found


def _joules_in(file: Path) -> float:
    return int(file.read_text()) / 1e6
