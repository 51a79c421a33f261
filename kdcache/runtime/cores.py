"""How many cores a job may use."""

import os

from kdcache.errors import UsageError


def cores() -> int:
    """Threads or processes that a job works with: $KDCACHE_THREADS, else as many as this process has cores.

    Raises:
        UsageError: $KDCACHE_THREADS is no whole number above 0.
    """
    asked = os.environ.get("KDCACHE_THREADS")
    if asked is None:
        return len(os.sched_getaffinity(0))
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(f"$KDCACHE_THREADS is {asked!r}: give a whole number above 0, or unset it.")
    return int(asked)
