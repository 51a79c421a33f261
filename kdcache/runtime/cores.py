"""The number of cores that a job may use."""

import os

from kdcache.errors import UsageError


def cores() -> int:
    """Return the number of threads or processes of a job: $KDCACHE_THREADS, else the cores of this process.

    Raises:
        UsageError: $KDCACHE_THREADS is no whole number above 0.
    """
    threads = os.environ.get("KDCACHE_THREADS")
    if threads is None:
        return len(os.sched_getaffinity(0))
    if not threads.isdecimal() or int(threads) < 1:
        raise UsageError(f"$KDCACHE_THREADS is {threads!r}: give a whole number above 0, or unset it.")
    return int(threads)
