"""How a command ends when it cannot do its work."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from kdcache.errors import KdcacheError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE

# What the user can mend without knowing the program. Any other OSError is a surprise and keeps its traceback.
_REMEDIES = {
    errno.EACCES: "Check who owns it and its permissions, or give another place.",
    errno.EPERM: "Check who owns it and its permissions, or give another place.",
    errno.EROFS: "Give a place that can be written.",
    errno.ENOSPC: "Free some space, then run the same command again.",
    errno.EDQUOT: "Free some space or raise the quota, then run the same command again.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: a part of it is a file.",
    errno.EISDIR: "Check the path: it is a folder.",
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`), then run the same command again.",
    errno.EIO: "The disk or its network mount fails: check it, then run the same command again.",
    errno.ESTALE: "The network mount was lost: mount it again, then run the same command again.",
}


@contextmanager
def explained() -> Iterator[None]:
    """Turn what a user can mend into one message on stderr and an exit code; let surprises keep their traceback."""
    try:
        yield
        sys.stdout.flush()
    except KdcacheError as error:
        _stop(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _stop("stopped; run the same command again to go on", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read us has gone; Python would complain once more when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        _stop(f"error: {describe_os_error(error)}", 1)


def describe_os_error(error: OSError) -> str:
    """Say in a sentence which path failed and how, and in another what to do."""
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    where = f"{' -> '.join(paths)}: " if paths else ""
    return f"{where}{error.strerror}. {_REMEDIES[error.errno or 0]}"


def _stop(message: str, code: int) -> NoReturn:
    # Not through rich: it would fold lines and read brackets in names as markup.
    print(message, file=sys.stderr)
    raise SystemExit(code) from None
