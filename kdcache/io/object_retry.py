"""The policy of retries for object stores.

Two reasons for a retry are distinguished. A request that *failed* (a 500, a reset, an incomplete body, a timeout) is
retried with growing pauses up to a limit in seconds. A response that may be *wrong* for a moment (there is no such
object; bytes that do not fit their checksum) is requested a few times more before an object counts as missing or
damaged.
"""

import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
)
from tenacity.stop import stop_base

from kdcache.errors import UsageError

T = TypeVar("T")

#: Logger of every request that is retried, at WARNING. A network that is bad for an hour makes thousands of
#: these, so that a program that shows them to a person shows the first few.
log = logging.getLogger("kdcache.io.object_store")
logging.getLogger("kdcache").addHandler(logging.NullHandler())

LIMIT_VARIABLE = "KDCACHE_STORE_RETRY_SECONDS"
PAUSE_VARIABLE = "KDCACHE_STORE_RETRY_PAUSE"

#: Seconds for which a failed request is retried.
LIMIT = 180.0
#: The same for a store that has never responded: its URL or endpoint may be wrong.
FIRST_CONTACT = 20.0
#: Seconds before the first retry; the pause doubles from then on.
FIRST_PAUSE = 0.1
#: Seconds of the longest pause.
LONGEST_PAUSE = 15.0
#: Number of requests for a doubtful response: with the pauses above, over one to two seconds.
DOUBTFUL_TRIES = 5

#: Only for pauses: Python's shared generator belongs to training, which saves its state.
_jitter = random.Random()


@dataclass(frozen=True)
class RetryPolicy:
    """The limits and pauses of retries.

    Attributes:
        limit: seconds after its first try from which a request is not tried again.
        first_pause: seconds before the second try.
    """

    limit: float = LIMIT
    first_pause: float = FIRST_PAUSE

    @classmethod
    def from_environment(cls) -> "RetryPolicy":
        """Read $KDCACHE_STORE_RETRY_SECONDS and $KDCACHE_STORE_RETRY_PAUSE; use the defaults if they are not set.

        Raises:
            UsageError: one of them is no number of seconds.
        """
        return cls(_seconds(LIMIT_VARIABLE, LIMIT), _seconds(PAUSE_VARIABLE, FIRST_PAUSE))

    def after_failures(
        self,
        what: str,
        limit: float,
        worth: Callable[[BaseException], int | None],
        describe: Callable[[BaseException | None], str],
    ) -> Retrying:
        """Return a loop that retries after errors, logs each, and raises the last.

        what: description of the request, such as "Reading s3://bucket/key".
        limit: seconds after the first try from which it is not retried.
        worth: function that returns the most tries for an error; None if only `limit` applies.
        describe: function that describes an error in a few words, for the log.
        """

        def log_failure(state: RetryCallState) -> None:
            pause = state.next_action.sleep if state.next_action is not None else 0.0
            cause = describe(_error(state))
            log.warning("%s failed at try %d: %s. Next try in %.1f s", what, state.attempt_number, cause, pause)

        return Retrying(
            retry=retry_if_exception_type(Exception),
            stop=stop_after_delay(limit) | _StopAfterTries(worth),
            wait=self._pause,
            before_sleep=log_failure,
            reraise=True,
        )

    def confirmed(
        self,
        where: str,
        read: Callable[[], T],
        accept: Callable[[T], bool],
        doubted: Callable[[BaseException], bool],
        tries: int = DOUBTFUL_TRIES,
    ) -> T:
        """Return the result of `read`, repeated a few times if it is doubtful; the last response counts.

        where: name of the object, for the log.
        accept: whether a response is certain.
        doubted: whether an error of `read` is doubtful, too; others are raised at once.
        tries: number of requests in all.
        """
        asking = Retrying(
            retry=retry_if_exception(doubted) | retry_if_result(lambda found: not accept(found)),
            stop=stop_after_attempt(tries),
            wait=self._pause,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome is not None else None,
        )
        found: T = asking(read)
        tried = asking.statistics["attempt_number"]
        if tried > 1 and accept(found):
            log.warning(
                "%s was missing or damaged in the store's first response, and correct in response %d", where, tried
            )
        return found

    def _pause(self, state: RetryCallState) -> float:
        """Return twice the former pause, less up to a half at random, so that processes do not retry together."""
        longest: float = min(LONGEST_PAUSE, self.first_pause * 2.0 ** min(state.attempt_number - 1, 30))
        return _jitter.uniform(longest / 2, longest)


class _StopAfterTries(stop_base):
    """Stops after the number of tries that the last error allows."""

    def __init__(self, worth: Callable[[BaseException], int | None]) -> None:
        self._worth = worth

    def __call__(self, retry_state: RetryCallState) -> bool:
        error = _error(retry_state)
        tries = None if error is None else self._worth(error)
        return tries is not None and retry_state.attempt_number >= tries


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise UsageError(f"${variable} is {text!r}: give a number of seconds from 0 to 1,000,000, or unset it.")
    return seconds
