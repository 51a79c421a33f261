"""Jobs in processes of their own that stop for ever in the midst of their work, so that they can be killed there."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from support.forked import CONTEXT

#: Seconds that a job may take to come so far; only a job that never does waits for so long.
DEADLINE = 300


class ReachedError(Exception):
    """The job has come as far as it was to."""


class Watched:
    """A progress that calls `reached` when so many advances were told, or, with 0, with the first line."""

    def __init__(self, advances: int, reached: Callable[[], None]) -> None:
        self._left, self._reached = advances, reached

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator["Watched"]:
        yield self

    def advance(self, count: int = 1, **values: float) -> None:
        self._left -= 1
        if self._left == 0:
            self._reached()

    def say(self, line: str) -> None:
        if self._left == 0:
            self._reached()

    warn = say


@contextmanager
def stuck(
    folder: Path, advances: int, job: Callable[..., Any], *arguments: Any, **choice: Any
) -> Iterator[BaseProcess]:
    """A process in which `job(*arguments, progress=..., **choice)` has come so far, and stays there.

    folder: of the test; a file in it tells that the job has come so far.
    """
    sign = folder / "reached"
    process = CONTEXT.Process(target=_run, args=(sign, advances, job, arguments, choice, dict(os.environ)), daemon=True)
    process.start()
    try:
        end = time.monotonic() + DEADLINE
        while not sign.exists():
            assert process.is_alive(), "the job ended before it came so far"
            assert time.monotonic() < end, "the job does not come so far"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.join()


def _run(
    sign: Path,
    advances: int,
    job: Callable[..., Any],
    arguments: tuple[Any, ...],
    choice: dict[str, Any],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)  # the server has that of the time when it was started

    def stay() -> None:
        sign.touch()
        while True:
            time.sleep(1)

    job(*arguments, progress=Watched(advances, stay), **choice)


def raise_reached() -> None:
    """For a `Watched` of this process: end the job where it has come so far."""
    raise ReachedError
