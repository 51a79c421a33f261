"""Sharing work among processes, where work is mostly Python's own and threads would wait for one another."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from kdcache.cores import cores
from kdcache.progress import Progress

_BYTES_A_WORKER = 32 << 20  # of images; below this, starting another process takes longer than it saves

T = TypeVar("T")
R = TypeVar("R")


def workers_for(size: int) -> int:
    """How many processes are worth while for images of `size` bytes: at most one for each core that a job may use."""
    return min(cores(), max(1, size // _BYTES_A_WORKER))


def in_processes(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    doing: str,
    progress: Progress,
    *,
    quiet: bool = False,
) -> Iterator[R]:
    """`function` of each item, in order, by as many as `workers` processes; by this one where it takes only one.

    Where processes cannot be started the work goes on here, and a warning calls it by the word `doing`. An error of
    `function` is raised in its item's place.

    quiet: lose what `function` writes to the standard error of another process, past Python too; never of this one,
    whose other threads write there as well.
    """
    done = 0
    workers = min(workers, len(items))
    if workers > 1:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        try:
            for result in pool.map(partial(_in_silence, function) if quiet else function, items):
                yield result
                done += 1
        except BrokenProcessPool:
            progress.warn(f"worker processes cannot run here; {doing} goes on in this process")
        finally:
            pool.shutdown(cancel_futures=True)
    yield from map(function, items[done:])


def _in_silence(function: Callable[[T], R], item: T) -> R:
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        return function(item)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
