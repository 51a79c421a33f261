"""Runs trials in child processes, so that a driver that crashes or hangs does not affect the doctor."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from kdcache.errors import reason
from kdcache.io.json_format import parse_json

Ending = Literal["refusal", "error", "crash", "kill", "timeout"]


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
        values: what the trial returned, by name; empty if it failed.
        failure: reason of a failure, as a clause; None if it succeeded.
        ending: kind of a failure: "refusal", an error of kdcache in whole sentences with a remedy; "error", any other
            error; "crash", by a signal; "kill", by SIGKILL, mostly for lack of memory; or "timeout".
        errno: number of the system's error, if it was one.
    """

    values: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    ending: Ending = "error"
    errno: int | None = None


def attempt(trial: str, *arguments: str, limit: float) -> Outcome:
    """Run a function of `kdcache.doctor.trials` in a child process, for at most `limit` seconds.

    A process that cannot even be killed, because it waits for a dead mount or device, is left behind.
    """
    try:
        code, out, err = run([sys.executable, "-P", "-m", "kdcache.doctor.trials", trial, *arguments], limit)
    except OSError as error:
        return Outcome(failure=f"no process can be started ({reason(error)})", errno=error.errno)
    if code is None:
        return Outcome(failure=f"it did not end within {limit:g} seconds", ending="timeout")
    if code == -signal.SIGKILL:
        return Outcome(failure="it was killed (SIGKILL)", ending="kill")
    if code < 0:
        return Outcome(failure=f"it crashed ({_signal_name(-code)})", ending="crash")
    try:
        fields = parse_json(out)
    except ValueError:
        last = err.strip().splitlines()[-1:] or ["it printed nothing"]
        return Outcome(failure=f"it ended with {code}: {last[0]}")
    return Outcome(**fields)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def run(command: list[str], limit: float) -> tuple[int | None, str, str]:
    """Run a command; return exit code, stdout and stderr. The code is None if it ran for more than `limit` seconds.

    Raises OSError if the command cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # its own children are ended with it
    )
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if isinstance(error, subprocess.TimeoutExpired):
            return None, "", ""
        raise
    return process.returncode, out, err
