"""Signals that ask a job to end, in processes of their own: what they raise, what they wait for, and the exit codes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcache.runtime.signals import STOP_SIGNALS, Interrupted, StopRequests, stop_requests

#: What `kdcache_cli.main` does around a command.
COMMAND = """
import ctypes, os, signal, sys, time
from functools import partial
from kdcache.runtime.signals import STOP_SIGNALS, Interrupted, interruptible, last_act, stop_requests
from kdcache_cli.failures import explained, farewell

def main(work):
    with interruptible(partial(farewell, "train")):
        try:
            with explained("train"):
                work()
        except SystemExit as end:
            os._exit(end.code)

def ready():
    print("ready", flush=True)

def stuck():
    # In the midst of a function of C that waits for a shell, whatever signals come; the shell says that it is ready.
    ctypes.CDLL(None).system(b"echo ready; read line")

{work}
main(work)
"""


@contextmanager
def started(
    work: str, ignored: tuple[signal.Signals, ...] = (), launcher: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process that does `work`, once it has said that it is ready."""

    def dispositions() -> None:
        # A suite that runs in the background has SIGINT ignored, and its children inherit that.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [*launcher, sys.executable, "-c", COMMAND.format(work=work)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=dispositions,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


SLEEP = """
def work():
    ready()
    time.sleep(600)
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_ends_a_command_with_128_and_its_number(number: signal.Signals) -> None:
    by = "" if number == signal.SIGINT else f" by {number.name}"
    with started(SLEEP) as process:
        process.send_signal(number)
        assert ended(process) == (128 + number, "", f"stopped{by}; run the same command again to go on\n")


def test_the_first_process_of_a_container_gets_the_signal_of_docker_stop() -> None:
    """The system keeps from it every signal that it does not ask for."""
    launcher = ("unshare", "--pid", "--fork", "--kill-child", "--")
    if not shutil.which("unshare") or subprocess.run([*launcher, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a namespace of processes cannot be made here")
    with started(SLEEP, launcher=launcher) as process:
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert ended(process) == (143, "", "stopped by SIGTERM; run the same command again to go on\n")


def test_the_page_on_stopping_has_the_exit_code_of_each_signal(project_root: Path) -> None:
    page = (project_root / "docs" / "stopping.md").read_text()
    rows = [row.strip("| ").split(" | ") for row in page.splitlines() if row.startswith("| SIG")]
    codes: dict[str, int] = {}
    for names, _, listed in rows:
        codes |= zip(names.split(", "), map(int, listed.split(", ")), strict=True)
    assert codes == {number.name: 128 + number for number in STOP_SIGNALS}


def test_what_is_ignored_at_the_start_stays_ignored() -> None:
    """`nohup` ignores SIGHUP, and a shell SIGINT in the background."""
    work = """
def work():
    ready()
    print(sys.stdin.readline(), end="", flush=True)
    time.sleep(600)
"""
    with started(work, ignored=(signal.SIGHUP, signal.SIGINT)) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("still there\n")
        process.stdin.flush()
        assert process.stdout.readline() == "still there\n"
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 143


def test_a_library_that_knows_no_signals_keeps_nobody_waiting() -> None:
    """The main thread does not come back; what has to be done in any case is done, and the process ends."""
    work = """
def work():
    with last_act(lambda: print("given back", flush=True)):
        stuck()
"""
    with started(work) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(60)  # before the end of its input lets the shell go on
        assert ended(process) == (143, "given back\n", "stopped by SIGTERM; run the same command again to go on\n")


def test_a_last_act_that_never_ends_does_not_hold_up_the_end() -> None:
    work = """
def work():
    with last_act(lambda: time.sleep(600)):
        stuck()
"""
    with started(work) as process:
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 138


def test_a_signal_that_hits_a_destructor_is_not_lost() -> None:
    """What is raised there nobody can catch."""
    work = """
class Slow:
    def __del__(self):
        ready()
        time.sleep(600)

def work():
    Slow()
    time.sleep(600)
"""
    with started(work) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, "", "stopped by SIGTERM; run the same command again to go on\n")


def test_no_signal_interrupts_what_is_being_saved_and_the_first_counts() -> None:
    """As under torchrun, where each process gets a signal twice, and another one while it ends."""
    work = """
def work():
    with stop_requests() as requests:
        with requests.saving():
            ready()
            for line in sys.stdin:
                pass
            print("saved", requests.number, flush=True)
        try:
            requests.raise_if_requested()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            print("closed", flush=True)
    print("not reached")
"""
    with started(work) as process:
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        code, out, err = ended(process)
    # Signals that are pending together are handled in the order of their numbers.
    first = int(out.split()[1])
    assert first in (signal.SIGUSR2, signal.SIGTERM)
    assert (code, out) == (128 + first, f"saved {first}\nclosed\n")
    assert err.startswith("stopped by SIG")
    assert err.count("\n") == 1


def test_a_signal_that_was_noted_before_interrupts_at_once() -> None:
    requests = StopRequests()
    requests.handle(signal.SIGTERM)
    reached = False
    with pytest.raises(Interrupted) as interrupt, requests.interrupting():
        reached = True
    assert not reached
    assert interrupt.value.exit_code == 143


def test_only_a_person_who_presses_again_later_ends_what_is_ending_already() -> None:
    now = 0.0
    requests = StopRequests(clock=lambda: now)
    with requests.interrupting():
        with pytest.raises(Interrupted):
            requests.handle(signal.SIGTERM)
        now = 0.5
        requests.handle(signal.SIGINT)  # the same request, passed on by another process
        now = 5.0
        requests.handle(signal.SIGTERM)
        with requests.saving():
            requests.handle(signal.SIGINT)
        with pytest.raises(Interrupted) as interrupt:
            requests.handle(signal.SIGINT)
    assert interrupt.value.number == signal.SIGTERM


def test_handlers_are_as_before_afterwards() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    hook = sys.unraisablehook
    with stop_requests(), stop_requests() as inner:
        signal.raise_signal(signal.SIGUSR1)
        assert inner.number == signal.SIGUSR1
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before
    assert sys.unraisablehook is hook


def test_what_came_to_an_inner_one_is_known_to_the_outer() -> None:
    with stop_requests() as outer:
        with stop_requests():
            signal.raise_signal(signal.SIGUSR2)
        assert outer.number == signal.SIGUSR2
