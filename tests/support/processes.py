"""Dumps in processes of their own, which can be killed: forked from a server that has imported everything already."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.jobs.dump import DumpRequest
from kdcache.progress import Task

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["kdcache.jobs.dump", "kdcache.render.pillow", "kdcache.render.dali"])


class _Nobody:
    def advance(self, count: int = 1, **values: float) -> None:
        pass


class RowLog:
    """A progress that writes one byte to a file for every row of a view that is answered: the killed can be asked.

    What is answered beforehand, to learn the order of classes, is not counted.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def advance(self, count: int = 1, **values: float) -> None:
        os.write(self._file, b"." * count)

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Task]:
        yield self if " samples x " in title else _Nobody()

    def say(self, line: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass


def start_dump(request: DumpRequest, log: Path) -> BaseProcess:
    """A dump that runs by itself; its exit code is 0 when it ends well."""
    # The server has the environment of the time when it was started.
    process = _context.Process(target=_run, args=(request, log, dict(os.environ)), daemon=True)
    process.start()
    return process


def _run(request: DumpRequest, log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from kdcache.jobs.dump import dump

    try:
        dump(request, RowLog(log))
    except KdcacheError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)


def rows_in(log: Path) -> int:
    """How many rows were answered so far."""
    return log.stat().st_size if log.exists() else 0
