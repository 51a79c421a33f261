"""Exit codes and messages of commands that fail or are stopped."""

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

#: Commands that keep what they have done so far.
_GO_ON = frozenset({"dump-logits", "train", "cache copy", "cache push", "cache pull", "demo"})


@contextmanager
def explained(command: str = "") -> Iterator[None]:
    """Turn errors that a user can resolve into one message on stderr and an exit code; others keep their traceback.

    Args:
        command: name of the command, such as `train` or `cache copy`, for the message if a signal ends it.
    """
    try:
        yield
        sys.stdout.flush()
    except KdcacheError as error:
        _stop(f"error: {error.option_words or error}", error.exit_code)  # whose text is printable
    except KeyboardInterrupt as interrupt:
        number = signal_of(interrupt)
        _stop(stopped(command, number), 128 + number)
    except BrokenPipeError:
        # The reader of stdout has ended. Python would raise again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        if error.errno not in REMEDIES:  # not one that a user can resolve
            raise
        _stop(f"error: {describe_os_error(error)}", 1)


def stopped(command: str, number: int) -> str:
    """Return the message for a command that a signal ended."""
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    kept = "go on" if command in _GO_ON or command.startswith("import ") else "begin anew"
    return f"stopped{by}; run the same command again to {kept}"


def farewell(command: str, number: int) -> None:
    """Print the message for a command that a signal ends; called from a thread other than the command's."""
    # A progress bar hides the cursor, and rich gets no chance to show it again.
    shown = "\x1b[?25h\r\n" if sys.stderr.isatty() else ""
    os.write(2, f"{shown}{stopped(command, number)}\n".encode())


def describe_os_error(error: OSError) -> str:
    """Return a sentence about the path and the error, and one about the remedy."""
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    where = f"{' -> '.join(paths)}: " if paths else ""
    return printable(f"{where}{error.strerror}. {REMEDIES[error.errno or 0]}")


def _stop(message: str, code: int) -> NoReturn:
    # Not through rich: it would fold lines and read brackets in names as markup.
    print(message, file=sys.stderr)
    raise SystemExit(code) from None
