"""Trying something in a process of its own, so that a driver that crashes or hangs takes nothing along with it."""

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
    """How a trial ended.

    Attributes:
        answer: what it returned; empty where it failed.
        failure: why it failed, as a clause; None where it did not.
        ending: how it failed, where it did: with a "refusal", an error of kdcache's that ends in its own remedy and is
            whole sentences; with another "error"; with a "crash", by a signal; by the "kill" of a system that needs
            memory; or by a "timeout".
        errno: the number of an error of the system's.
    """

    answer: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    ending: Ending = "error"
    errno: int | None = None


def attempt(trial: str, *arguments: str, limit: float) -> Outcome:
    """Run a function of `kdcache.doctor.trials` in a process of its own, for `limit` seconds at most.

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
        said = parse_json(out)
    except ValueError:
        last = err.strip().splitlines()[-1:] or ["it said nothing"]
        return Outcome(failure=f"it ended with {code}: {last[0]}")
    return Outcome(**said)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def run(command: list[str], limit: float) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a command; the code is None where it was still running after `limit` seconds.

    Raises OSError where it cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # whatever it starts itself is ended with it
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
