"""Text that describes numbers in reports and messages."""

from collections.abc import Iterable


def format_bytes(count: int | float) -> str:
    """Format a number of bytes, such as `1.23 GB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 999.5:  # what is more is 1e+03 in three digits
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def format_duration(seconds: float) -> str:
    """Format a time, such as `40 seconds`, `12 minutes` or `3.4 hours`."""
    for unit, length, most in (("seconds", 1, 120), ("minutes", 60, 120), ("hours", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else f"{seconds / length:,.0f} {unit}"
    return f"{seconds / 86400:,.1f} days"


def format_energy(joules: float) -> str:
    """Format an energy in watt-hours, such as `0.52 Wh` or `3.1 kWh`."""
    for unit, length, most in (("Wh", 3600.0, 1000), ("kWh", 3.6e6, 1000)):
        if joules < most * length:
            return f"{joules / length:.2g} {unit}" if joules < 10 * length else f"{joules / length:,.0f} {unit}"
    return f"{joules / 3.6e9:,.1f} MWh"


def format_ranges(numbers: Iterable[int]) -> str:
    """Format whole numbers in ascending order, neighbours joined: `0-4, 7, 9-10`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def format_count(number: int, noun: str) -> str:
    """Format a number of things, such as `1 block` or `1,024 blocks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
