"""Processes of their own that begin with everything imported: a server that has imported it forks them.

A fresh interpreter takes seconds to import torch and timm, so a test uses one only where the start itself is tested.
Python has one such server for the whole test process, and only what is named before its first start is imported
there: that is why every test takes it from here.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from kdcache.runtime.signals import STOP_SIGNALS

#: For `Process` and for pools. What a process runs must be found by its module's name.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "kdcache.inspection.copy",
        "kdcache.dumping.dump",
        "kdcache.evaluation.evaluate",
        "kdcache.training.train",
        "kdcache.inspection.verify",
        "kdcache.render.dali",
        "kdcache.render.pillow",
        "kdcache_cli.main",
        "timm",
        "torch.distributed",
        "torch.utils.tensorboard",
    ]
)

#: Seconds that a command may take to come so far as a test waits for; only one that never does takes so long.
DEADLINE = 300


@dataclass(frozen=True)
class Running:
    """A command in a process of its own, which is killed where the test leaves it behind.

    Attributes:
        process: the process.
        out: file of what it prints.
        err: file of its messages.
    """

    process: BaseProcess
    out: Path
    err: Path

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait_for(self, sign: Callable[[], bool]) -> None:
        """Wait until something has happened, before which it may not end."""
        end = time.monotonic() + DEADLINE
        while not sign():
            assert self.process.is_alive(), self.err.read_text()
            assert time.monotonic() < end, "it does not come so far"
            time.sleep(0.01)

    def ended(self, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        """What it has printed and exited with, within some seconds."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it has not ended"
        texts = [file.read_text() if file.exists() else "" for file in (self.out, self.err)]
        return subprocess.CompletedProcess([], self.process.exitcode, *texts)


@contextmanager
def started_command(
    arguments: Sequence[object],
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
    ignored: Sequence[signal.Signals] = (),
) -> Iterator[Running]:
    """`kdcache ARGUMENTS`, running.

    environment: all of it; None for that of the test.
    before: called in the process first, a function that is found by its module's name.
    ignored: signals that it ignores from the start, of those that end a job; it does not inherit that from the suite.
    """
    words = ["kdcache", *map(str, arguments)]
    with _started(_command, words, None, environment or dict(os.environ), before, ignored) as running:
        yield running


@contextmanager
def started_ranks(arguments: Sequence[str], world_size: int) -> Iterator[list[Running]]:
    """`kdcache ARGUMENTS`, running on each rank of a job, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    size = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    with ExitStack() as stack:
        environments = [{**os.environ, **meeting, **size, **place} for place in places]
        yield [stack.enter_context(started_command(arguments, each)) for each in environments]


def run_ranks(arguments: Sequence[str], world_size: int) -> list[subprocess.CompletedProcess[str]]:
    """What `kdcache ARGUMENTS` prints and exits with on each rank of a job, with the variables that torchrun sets."""
    with started_ranks(arguments, world_size) as ranks:
        return [rank.ended() for rank in ranks]


def run_command(
    arguments: Sequence[str], folder: Path | None, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """What `kdcache ARGUMENTS` prints and exits with in a working folder and an environment."""
    return _run(_command, ["kdcache", *arguments], folder, environment)


def run_program(
    words: Sequence[str], folder: Path | None, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """What `python FILE ARGUMENTS` prints and exits with, FILE being the first of the words."""
    return _run(_program, words, folder, environment)


def _run(
    start: Callable[[], None], words: Sequence[str], folder: Path | None, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    with _started(start, words, folder, environment) as running:
        return running.ended()


@contextmanager
def _started(
    start: Callable[[], None],
    words: Sequence[str],
    folder: Path | None,
    environment: dict[str, str],
    before: Callable[[], None] | None = None,
    ignored: Sequence[signal.Signals] | None = None,
) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("out", "err")]
        arguments = (start, list(words), folder or Path.cwd(), environment, files, before, ignored)
        process = CONTEXT.Process(target=_begin, args=arguments)
        process.start()
        try:
            yield Running(process, *files)
        finally:
            process.kill()
            process.join()


def _begin(
    start: Callable[[], None],
    words: list[str],
    folder: Path,
    environment: dict[str, str],
    files: list[Path],
    before: Callable[[], None] | None,
    ignored: Sequence[signal.Signals] | None,
) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    # The server has the environment and the working folder of the time when it was started.
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = words
    if ignored is not None:
        # A suite that runs in the background has SIGINT ignored, one under nohup SIGHUP, and the server inherits that.
        for stopping in STOP_SIGNALS:
            usual = signal.default_int_handler if stopping == signal.SIGINT else signal.SIG_DFL
            signal.signal(stopping, signal.SIG_IGN if stopping in ignored else usual)
    if before is not None:
        before()
    start()


def _command() -> None:
    from kdcache_cli.main import main

    main()


def _program() -> None:
    runpy.run_path(sys.argv[0], run_name="__main__")
