"""How a command ends when it cannot do its work."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from kdcache.errors import KdcacheError
from kdcache.remedies import REMEDIES

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE


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
        if error.errno not in REMEDIES:  # a surprise
            raise
        _stop(f"error: {describe_os_error(error)}", 1)


def describe_os_error(error: OSError) -> str:
    """Say in a sentence which path failed and how, and in another what to do."""
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    where = f"{' -> '.join(paths)}: " if paths else ""
    return f"{where}{error.strerror}. {REMEDIES[error.errno or 0]}"


def _stop(message: str, code: int) -> NoReturn:
    # Not through rich: it would fold lines and read brackets in names as markup.
    print(message, file=sys.stderr)
    raise SystemExit(code) from None
