"""Dumps in processes of their own, which can be killed: forked from a server that has imported everything already."""

import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch import Tensor

from kdcache.dumping.options import DumpOptions
from kdcache.errors import KdcacheError
from kdcache.models.teachers import Teacher
from support.forked import CONTEXT


def start_dump(request: DumpOptions, log: Path, calibration: int | None = None) -> BaseProcess:
    """A dump that runs by itself; its exit code is 0 when it ends well.

    It writes one byte to `log` for every row that its teacher computes, whatever for: the killed can be asked.
    `calibration` is how many rows an order of classes is learned from, if not the usual number.
    """
    # The server has the environment of the time when it was started.
    process = CONTEXT.Process(target=_run, args=(request, log, calibration, dict(os.environ)), daemon=True)
    process.start()
    return process


def _run(request: DumpOptions, log: Path, calibration: int | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    import kdcache.dumping.calibration
    from kdcache.dumping.dump import dump

    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    compute_output = Teacher.compute_output

    def logged(teacher: Teacher, pixels: Tensor, *arguments: Any, **choice: Any) -> Any:
        os.write(file, b"." * len(pixels))
        return compute_output(teacher, pixels, *arguments, **choice)

    Teacher.compute_output = logged  # type: ignore[method-assign]
    if calibration is not None:
        kdcache.dumping.calibration.calibration_rows = lambda classes: calibration  # type: ignore[attr-defined]
    try:
        dump(request)
    except KdcacheError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)


def rows_in(log: Path) -> int:
    """How many rows were computed so far."""
    return log.stat().st_size if log.exists() else 0
