"""Numbers as reports word them."""

from collections.abc import Iterable


def readable(count: int | float) -> str:
    """A number of bytes, such as `1.23 GB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in ascending order, neighbours joined: `0-4, 7, 9-10`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
