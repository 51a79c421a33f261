"""A trial runs in a process of its own: whatever becomes of that process, the doctor gets an values."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcache.doctor.child import attempt, run


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a shell script in the place of Python, for processes that end as a broken driver ends them."""

    def put(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return put


def test_a_trial_that_works_gives_its_values(tmp_path: Path) -> None:
    outcome = attempt("folder", str(tmp_path / "not" / "yet"), limit=60.0)
    assert outcome.failure is None
    assert (outcome.values["place"], outcome.values["cause"]) == (str(tmp_path), None)
    assert outcome.values["free"] > 0
    assert not any(tmp_path.iterdir())


def test_an_error_on_purpose_is_quoted(tmp_path: Path) -> None:
    outcome = attempt("data", str(tmp_path), limit=60.0)
    assert outcome.values == {}
    assert outcome.failure is not None
    assert outcome.failure.startswith("There are no .tar files in")
    assert outcome.ending == "refusal"


@pytest.mark.parametrize(
    ("script", "failure", "ending"),
    [
        ("kill -SEGV $$", "it crashed (SIGSEGV)", "crash"),
        ("kill -40 $$", "it crashed (signal 40)", "crash"),
        ("kill -KILL $$", "it was killed (SIGKILL)", "kill"),
        ("echo ok; echo 'libcuda.so: broken' >&2; exit 3", "it ended with 3: libcuda.so: broken", "error"),
        ("exit 1", "it ended with 1: it printed nothing", "error"),
    ],
)
def test_a_process_that_dies_is_a_failure_with_its_cause(interpreter, script: str, failure: str, ending: str) -> None:
    interpreter(script)
    outcome = attempt("compute", limit=60.0)
    assert (outcome.values, outcome.failure, outcome.ending) == ({}, failure, ending)


def test_a_process_that_cannot_be_started_is_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    outcome = attempt("compute", limit=5.0)
    assert outcome.failure is not None
    assert outcome.failure.startswith("no process can be started")
    assert outcome.errno == errno.ENOENT


def test_an_error_of_the_system_keeps_its_number() -> None:
    outcome = attempt("anything", "x" * 300, limit=60.0)
    assert outcome.errno == errno.ENAMETOOLONG


def test_a_process_that_hangs_is_ended_with_all_that_it_started(interpreter, tmp_path: Path) -> None:
    interpreter(f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    outcome = attempt("compute", limit=1.0)
    assert (outcome.failure, outcome.ending) == ("it did not end within 1 seconds", "timeout")
    started = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    deadline = time.monotonic() + 20
    while started.exists() and started.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "what the process started is still there"
        time.sleep(0.05)


def test_what_libraries_print_does_not_spoil_the_values() -> None:
    noisy = """
import os
from kdcache.doctor import trials
def noisy():
    print("loading")
    os.write(1, b"more from C")
    return {"sum": 3}
trials.TRIALS["noisy"] = noisy
trials.main("noisy")
"""
    done = subprocess.run([sys.executable, "-c", noisy], capture_output=True, text=True, check=True)
    assert done.stdout == '{"values": {"sum": 3}}'
    assert "loading" in done.stderr


def test_a_command_that_is_not_there_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        run([f"/no/such/command-{os.getpid()}"], 5.0)
