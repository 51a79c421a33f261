"""Warnings of the library's log, shown on stderr while a command runs."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.errors import printable

#: Number of retried requests to object stores that are shown one by one.
SHOWN = 3

_STORE = "kdcache.io.object_store"


@contextmanager
def log_shown() -> Iterator[None]:
    """Show warnings of the library as lines; of those about object stores, only the first few and the number of all."""
    handler = _Lines()
    logger = logging.getLogger("kdcache")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        if handler.retries > SHOWN:
            print(
                f"warning: {handler.retries:,} requests to the object store failed or returned wrong data, and were "
                f"retried; the first {SHOWN} are shown above",
                file=sys.stderr,
            )


class _Lines(logging.Handler):
    """Prints a line a message to what `sys.stderr` is at that moment: above a bar, where one is shown.

    retries: how many messages about object stores there were, shown or not.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.retries = 0

    def emit(self, record: logging.LogRecord) -> None:
        more = ""
        if record.name == _STORE:
            self.retries += 1
            if self.retries > SHOWN:
                return
            more = "; further ones are only counted" if self.retries == SHOWN else ""
        try:
            print(f"warning: {printable(record.getMessage())}{more}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)
