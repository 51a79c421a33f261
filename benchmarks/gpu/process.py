"""A process that has a time limit, and ends with all that it has started."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Seconds between two calls of `meanwhile`.
_INTERVAL = 5.0
#: Seconds that a process gets between SIGTERM and SIGKILL.
_GRACE = 2.0
#: Characters of the end of a process's output that say why it failed.
_TAIL = 600


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit code, None where it ran out of time, and the end of what it printed."""

    code: int | None
    tail: str

    def describe(self, limit: float) -> str:
        """Why the process failed, in one line."""
        if self.code is None:
            return f"it did not end within {limit:.0f} s"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                return f"it was ended by {signal.Signals(-self.code).name}. {self._last}"
        return f"it ended with {self.code}. {self._last}"

    @property
    def _last(self) -> str:
        return " ".join(self.tail.replace("|", "/").split())[-_TAIL:]


def run_process(
    command: Sequence[str],
    variables: dict[str, str],
    limit: float,
    log: Path,
    meanwhile: Callable[[], None] = lambda: None,
) -> Ending:
    """Run a command for at most `limit` seconds, in a group of processes of its own, all of which end with it.

    Args:
        log: file to which its output is appended.
        meanwhile: function that is called every few seconds while the command runs.

    Raises:
        OSError: no process can be started.
    """
    code, end = None, time.monotonic() + limit
    with log.open("ab") as out:
        begin = out.tell()
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            while code is None and (left := end - time.monotonic()) > 0:
                try:
                    code = process.wait(min(left, _INTERVAL))
                except subprocess.TimeoutExpired:
                    meanwhile()
        finally:
            _end_group(process)
    with log.open("rb") as said:
        said.seek(begin)
        return Ending(code, said.read().decode("utf-8", "replace")[-4 * _TAIL :])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started; one that cannot even be killed is left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
