"""Worker processes, for work in pure Python, in which threads would wait for one another; and threads for the rest."""

import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import TypeVar

from kdcache.runtime.cores import cores
from kdcache.runtime.progress import Progress
from kdcache.runtime.signals import unsignalled
from kdcache.runtime.warning_filters import ignore_pillows_warnings

_BYTES_A_WORKER = 32 << 20  # of images; below this, starting another process takes longer than it saves

T = TypeVar("T")
R = TypeVar("R")


def workers_for(size: int) -> int:
    """Return the number of useful processes for images of `size` bytes: at most one per core of the job."""
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
    """Yield `function` of each item, in order, computed by up to `workers` processes; by this one if one is enough.

    Where processes cannot be started the work goes on here, and a warning calls it by the word `doing`. An error of
    `function` is raised in its item's place.

    The processes end as soon as this generator is closed, or their parent is killed, in the midst of an item. Signals
    that ask a job to end are for the parent alone: a terminal sends them to all.

    quiet: lose what `function` writes to the standard error of another process, past Python too; never of this one,
    whose other threads write there as well.
    """
    done = 0
    workers = min(workers, len(items))
    if workers > 1:
        context = multiprocessing.get_context("spawn")
        their_end, our_end = context.Pipe(duplex=False)
        results = deque[Future[tuple[R, list[logging.LogRecord]]]]()
        pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(their_end,))
        try:
            with unsignalled():
                called = partial(_in_silence, function) if quiet else function
                # Not by `map`: what that cancels, Python 3.11 then marks as lost with the processes, and fails.
                results.extend(pool.submit(_with_log, called, item) for item in items)
            while results:
                result, records = results.popleft().result()
                for record in records:
                    logging.getLogger(record.name).handle(record)
                yield result
                done += 1
            pool.shutdown()
        except BrokenProcessPool:
            progress.warn(f"worker processes cannot run here; {doing} continues in this process")
        finally:
            our_end.close()
            pool.shutdown()
            their_end.close()
            del pool  # and its semaphores, which are to be gone when the process ends by a signal
    yield from map(function, items[done:])


def in_threads(function: Callable[[T], R], items: Sequence[T], workers: int | None = None) -> Iterator[R]:
    """Yield `function` of each item, in order, computed by several threads; what waits is given up at an error."""
    pool = ThreadPoolExecutor(max(1, min(workers or cores(), len(items))), thread_name_prefix="kdcache-work")
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: Connection) -> None:
    ignore_pillows_warnings()
    _end_with(parent)


def _end_with(parent: Connection) -> None:
    """End this process when the other end of `parent` is closed, also by the death of its owner."""

    def watch() -> None:
        parent.poll(None)
        os._exit(1)

    threading.Thread(target=watch, name="kdcache-parent", daemon=True).start()


class _Collected(QueueHandler):
    """Collects log records in a list, in a form that can be sent to another process."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.append(record)  # type: ignore[attr-defined]


def _with_log(function: Callable[[T], R], item: T) -> tuple[R, list[logging.LogRecord]]:
    """Return the result of `function` and the log records of the call, which the main process passes on."""
    records: list[logging.LogRecord] = []
    logger, handler = logging.getLogger("kdcache"), _Collected(records)  # type: ignore[arg-type]
    logger.addHandler(handler)
    try:
        return function(item), records
    finally:
        logger.removeHandler(handler)


def _in_silence(function: Callable[[T], R], item: T) -> R:
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        return function(item)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
