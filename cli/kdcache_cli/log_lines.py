"""Messages of the library's log, shown on stderr while a command runs, and how many of them are shown.

The level of the logger `kdcache` is that of the command: --quiet shows warnings, --verbose every message. What
commands themselves tell (`ConsoleProgress`) follows it as well; reports on stdout do not.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.errors import KdcacheError, printable

#: Number of retried requests to object stores that are shown one by one.
SHOWN = 3

_STORE = "kdcache.io.object_store"
_logger = logging.getLogger("kdcache")


@contextmanager
def log_shown() -> Iterator[None]:
    """Show warnings of the library as lines; of those about object stores, only the first few and the number of all."""
    handler, former = _Lines(), _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    try:
        yield
    except KdcacheError as error:
        for line in "".join(traceback.format_exception(error)).splitlines():
            _logger.debug("%s", line)
        raise
    finally:
        is_complete = handler.shows_all
        _logger.removeHandler(handler)
        _logger.setLevel(former)
        if handler.retries > SHOWN and not is_complete:
            print(
                f"warning: {handler.retries:,} requests to the object store failed or returned wrong data, and were "
                f"retried; the first {SHOWN} are shown above",
                file=sys.stderr,
            )


def set_level(level: int) -> None:
    """Show messages of this level of `logging` and above, for as long as `log_shown` lasts."""
    _logger.setLevel(level)


def is_quiet() -> bool:
    """Return whether only warnings are to be shown."""
    return _logger.level > logging.INFO


class _Lines(logging.Handler):
    """Prints a line a message to what `sys.stderr` is at that moment: above a bar, where one is shown.

    retries: how many messages about object stores there were, shown or not.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.retries = 0

    @property
    def shows_all(self) -> bool:
        """Whether messages below warnings are shown, and all about object stores."""
        return _logger.level == logging.DEBUG

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not self.shows_all:
            return
        more = ""
        if record.name == _STORE and not self.shows_all:
            self.retries += 1
            if self.retries > SHOWN:
                return
            more = "; further ones are only counted" if self.retries == SHOWN else ""
        try:
            line = f"{record.levelname.lower()}: {printable(record.getMessage())}{more}"
            print(line, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)
