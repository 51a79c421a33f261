"""Processes of their own that begin with everything imported: a server that has imported it forks them.

A fresh interpreter takes seconds to import torch and timm, so a test uses one only where the start itself is tested.
Python has one such server for the whole test process, and only what is named before its first start is imported
there: that is why every test takes it from here.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def run_ranks(arguments: Sequence[str], world_size: int) -> list[subprocess.CompletedProcess[str]]:
    """What `kdcache ARGUMENTS` prints and exits with on each rank of a job, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    variables = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
        for rank in range(world_size)
    ]
    with ThreadPoolExecutor(world_size) as threads:
        jobs = [threads.submit(run_command, arguments, None, {**os.environ, **meeting, **each}) for each in variables]
        return [job.result() for job in jobs]


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
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("out", "err")]
        process = CONTEXT.Process(target=_begin, args=(start, list(words), folder or Path.cwd(), environment, files))
        process.start()
        process.join()
        texts = [file.read_text() if file.exists() else "" for file in files]
    assert process.exitcode is not None
    return subprocess.CompletedProcess(list(words), process.exitcode, *texts)


def _begin(
    start: Callable[[], None], words: list[str], folder: Path, environment: dict[str, str], files: list[Path]
) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    # The server has the environment and the working folder of the time when it was started.
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = words
    start()


def _command() -> None:
    from kdcache_cli.main import main

    main()


def _program() -> None:
    runpy.run_path(sys.argv[0], run_name="__main__")
