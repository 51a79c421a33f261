"""How a command ends when it cannot do its work."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from kdcache.errors import KdcacheError, printable
from kdcache.io.remedies import REMEDIES
from kdcache.runtime.signals import signal_of

BROKEN_PIPE = 141  # 128 + SIGPIPE

#: Commands that keep what they have done so far, by their first word.
_GO_ON = frozenset({"dump-logits", "train", "cache", "demo"})


@contextmanager
def explained(command: str = "") -> Iterator[None]:
    """Turn what a user can mend into one message on stderr and an exit code; let surprises keep their traceback.

    Args:
        command: first word of what runs, for what is said of one that a signal ended.
    """
    try:
        yield
        sys.stdout.flush()
    except KdcacheError as error:
        _stop(f"error: {error}", error.exit_code)  # whose text is printable
    except KeyboardInterrupt as interrupt:
        number = signal_of(interrupt)
        _stop(stopped(command, number), 128 + number)
    except BrokenPipeError:
        # Whoever read us has gone; Python would complain once more when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        if error.errno not in REMEDIES:  # a surprise
            raise
        _stop(f"error: {describe_os_error(error)}", 1)


def stopped(command: str, number: int) -> str:
    """What is said of a command that a signal ended."""
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    kept = "go on" if command in _GO_ON else "begin anew"
    return f"stopped{by}; run the same command again to {kept}"


def farewell(command: str, number: int) -> None:
    """Say that a command is ended by a signal, from a thread that is not its own."""
    # A bar that is being shown hides the cursor, and nobody is there any more to show it again.
    shown = "\x1b[?25h\r\n" if sys.stderr.isatty() else ""
    os.write(2, f"{shown}{stopped(command, number)}\n".encode())


def describe_os_error(error: OSError) -> str:
    """Say in a sentence which path failed and how, and in another what to do."""
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    where = f"{' -> '.join(paths)}: " if paths else ""
    return printable(f"{where}{error.strerror}. {REMEDIES[error.errno or 0]}")


def _stop(message: str, code: int) -> NoReturn:
    # Not through rich: it would fold lines and read brackets in names as markup.
    print(message, file=sys.stderr)
    raise SystemExit(code) from None
