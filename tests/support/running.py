"""Watching processes that are not this one's children."""

from pathlib import Path


def runs(process: int) -> bool:
    """Whether a process is still running; one that has ended may be listed until its parent has asked for it."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
