"""A counter of a task: units done, rate, and remaining time."""

import time
from collections import deque
from collections.abc import Callable

from kdcache.runtime.formatting import format_bytes

_WINDOW_SECONDS = 30.0


class Meter:
    """Counts units of work and formats the state in one line.

    The rate is that of the last 30 seconds, so that a slow start (first batch, cold disk) does not distort it for long.
    """

    def __init__(self, total: int, unit: str, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.unit, self.done = total, unit, done
        self._clock = clock
        self._first, self._began = done, clock()
        self._values: dict[str, float] = {}
        self._history = deque([(self._began, done)])

    def advance(self, count: int, values: dict[str, float]) -> None:
        """Count `count` more units; `values` are shown until newer ones come."""
        now = self._clock()
        self.done += count
        self._values |= values
        self._history.append((now, self.done))
        while len(self._history) > 2 and now - self._history[1][0] >= _WINDOW_SECONDS:
            self._history.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second over the last 30 seconds; None before the first units are done."""
        (then, before), (now, done) = self._history[0], self._history[-1]
        return (done - before) / (now - then) if now > then and done > before else None

    def state(self) -> str:
        """Return the state, such as `1,200 of 6,000 images, 103/s, 0:46 left, loss 1.234`."""
        parts = [f"{self.done:,} of {self.total:,} {self.unit}"]
        if self.rate is not None:
            parts += [f"{_rate(self.rate)}/s", f"{_duration((self.total - self.done) / self.rate)} left"]
        return ", ".join(parts + self._shown_values())

    def summary(self) -> str:
        """Return what was done since the meter was created, such as `6,000 images in 0:58, 103/s, loss 0.987`."""
        seconds, count = self._clock() - self._began, self.done - self._first
        parts = [f"{count:,} {self.unit} in {_duration(seconds)}"]
        if count and seconds > 0:
            parts.append(f"{_rate(count / seconds)}/s")
        return ", ".join(parts + self._shown_values())

    def _shown_values(self) -> list[str]:
        return [_value(name, value) for name, value in self._values.items()]


def _value(name: str, value: float) -> str:
    """Return a value with its name, of which the ending may be its unit."""
    if name.endswith("_share"):
        return f"{name.removesuffix('_share')} {value:.0%}"
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')} {format_bytes(value)}"
    return f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value:.4g}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{rest:02}" if days or hours else f"{minutes}:{rest:02}"
    return f"{days}d {clock}" if days else clock
