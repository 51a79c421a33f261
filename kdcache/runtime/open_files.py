"""The limit of open files of a process, and raising it."""

import resource
from contextlib import suppress

#: What the command line asks for, where the system allows it. Linux grants 1,024 by default, and allows half a million
#: and more. Programs that we start and that close every number they could have would take long with those.
WANTED = 65_536


def open_files_limit() -> int:
    """Return the number of files that this process may have open at once (RLIMIT_NOFILE, `ulimit -n`)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def raise_open_files_limit() -> None:
    """Raise the limit to `WANTED` files, or as many as the system allows; only for processes of the command line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS allows less than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
