"""Processes that share work end with their parent, however that ends, and say nothing of its signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.running import runs

#: Two workers, each at an item that takes ten minutes; what `kdcache_cli.main` does around a command.
JOB = """
import os, signal, sys, time
from kdcache.runtime.workers import in_processes
from kdcache.runtime.progress import silent

def slow(item):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: the workers share the pipe
    time.sleep(600)

if __name__ == "__main__":
    from kdcache.runtime.signals import interruptible
    from kdcache_cli.failures import explained
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with interruptible(lambda number: print("ended from outside", file=sys.stderr)):
        try:
            with explained("index"):
                list(in_processes(slow, range(4), 2, "sleeping", silent))
        except SystemExit as end:
            os._exit(end.code)
"""
STOPPED = "run the same command again to begin anew\n"


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, f"stopped; {STOPPED}"),
        (signal.SIGTERM, 143, f"stopped by SIGTERM; {STOPPED}"),
        (signal.SIGKILL, -signal.SIGKILL, None),
    ],
)
def test_workers_end_with_their_parent_in_the_midst_of_an_item(
    tmp_path: Path, number: signal.Signals, code: int, said: str | None
) -> None:
    """A terminal sends Ctrl-C to all of them; SIGTERM and SIGKILL reach the parent alone."""
    (tmp_path / "job.py").write_text(JOB)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "job.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)
        else:
            os.kill(parent.pid, number)
        _, err = parent.communicate(timeout=60)
        assert parent.returncode == code
        assert said is None or err == said
        deadline = time.monotonic() + 60
        while any(map(runs, workers)):
            assert time.monotonic() < deadline, "a worker has outlived its parent"
            time.sleep(0.02)
    finally:
        parent.kill()
