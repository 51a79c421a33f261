"""Signals that end a job: the exception that they raise, blocks that defer it, and the time limit of the end.

SIGINT comes from a person at the terminal, SIGTERM from docker, kubernetes, Slurm and torchrun, SIGHUP from a terminal
that was closed, SIGUSR1 and SIGUSR2 from schedulers that warn before they kill. All of them mean the same here. One
that is ignored when the job starts stays ignored: `nohup` ignores SIGHUP, and a shell SIGINT for what runs in the
background.

A process that a signal ended exits with 128 plus its number, as shells, Docker and Slurm report it.
"""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

#: Seconds after the first signal within which another one is taken for the same request: at Ctrl-C, and where Slurm
#: signals a whole job step, a process under torchrun gets one from there and one from torchrun.
SAME_REQUEST_SECONDS = 1.0

#: Seconds that a process may take to end after a signal, before it is ended whatever it is doing.
END_SECONDS = 1.5

#: Seconds of these that are left to what has to be done in any case, such as giving claims back.
LAST_SECONDS = 0.3


class Interrupted(KeyboardInterrupt):
    """The exception for a signal that ends a job; a KeyboardInterrupt, which no library handles as an error.

    Attributes:
        number: the signal that came first.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return 128 + self.number


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Return the number of an interrupt's signal; Python's own interrupt belongs to SIGINT."""
    return interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT


class StopRequests:
    """The signals received so far, and the current reaction to them; see `stop_requests`.

    There are three states. While signals are noted, which is where it begins, whoever works asks `number` now and then.
    While they interrupt, the first one raises `Interrupted` in the main thread wherever that is. While something is
    saved, nothing raises.

    One request is often told by several signals, so that only the first counts. A person who presses Ctrl-C again,
    later than `SAME_REQUEST_SECONDS`, means that the job shall end at once, and gets another `Interrupted`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._number: int | None = None
        self._since = 0.0
        self._interrupts = self._saves = False
        self._wake: Callable[[int], None] = lambda number: None
        self._wakeup = -1  # file descriptor to which interrupting signals are written when they arrive

    @property
    def number(self) -> int | None:
        """The first signal received; None if there was none."""
        return self._number

    def note(self, number: int) -> None:
        """Handle a request that reached another process, or another part of this one, like a signal received here."""
        if self._number is None:
            self._number, self._since = number, self._clock()
            self._wake(number)

    def raise_if_requested(self) -> None:
        """Raise `Interrupted` where a signal has come."""
        if self._number is not None:
            raise Interrupted(self._number)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let signals raise `Interrupted` at once within the block; an earlier signal raises it at the beginning."""
        before, self._interrupts = self._interrupts, True
        in_main_thread = threading.current_thread() is threading.main_thread()
        wakeup = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False) if in_main_thread else -1
        try:
            self.raise_if_requested()
            yield
        finally:
            self._interrupts = before
            if in_main_thread:
                signal.set_wakeup_fd(wakeup)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Let no signal raise an exception within the block."""
        before, self._saves = self._saves, True
        try:
            yield
        finally:
            self._saves = before

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal."""
        first = self._number is None
        self.note(number)
        assert self._number is not None
        impatient = number == signal.SIGINT and self._clock() - self._since > SAME_REQUEST_SECONDS
        if not self._saves and (impatient or (first and self._interrupts)):
            raise Interrupted(self._number)

    def deliver_again(self, number: int) -> None:
        """Reset a request whose exception was lost, and handle its signal again."""
        self._number = None
        _thread.interrupt_main(signal.Signals(number))


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Handle the signals of `STOP_SIGNALS` within the block, except ignored ones; restore the handlers afterwards.

    Within another one it takes over, and hands on at its end what has come. Signals belong to the main thread:
    elsewhere nothing is taken, and nothing comes.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before: dict[signal.Signals, Any] = {}
    for number in STOP_SIGNALS:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN and handler is not None:  # None: of a handler that is not Python's
            before[number] = handler
    outer = _owner(before)
    # The wakeup file gets only signals that interrupt: the others wait for the current step.
    requests._wakeup = wakeup = signal.set_wakeup_fd(-1)
    unraisable = sys.unraisablehook
    sys.unraisablehook = _redelivering(requests, unraisable)
    try:
        for number in before:
            signal.signal(number, requests.handle)
        yield requests
    finally:
        if outer is not None and requests.number is not None:
            outer.note(requests.number)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = unraisable
        signal.set_wakeup_fd(wakeup)


def _owner(handlers: dict[signal.Signals, Any]) -> StopRequests | None:
    """Return the requests of an outer block."""
    owners = (getattr(handler, "__self__", None) for handler in handlers.values())
    return next((owner for owner in owners if isinstance(owner, StopRequests)), None)


def _redelivering(requests: StopRequests, hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a hook for exceptions that Python cannot raise: an interrupt that hits a destructor would be lost.

    A timer delivers it again, because the hook itself still runs within the destructor.
    """

    def redeliver(unraisable: Any) -> object:
        if not isinstance(unraisable.exc_value, Interrupted):
            return hook(unraisable)
        timer = threading.Timer(0.01, requests.deliver_again, [unraisable.exc_value.number])
        timer.daemon = True
        timer.start()
        return None

    return redeliver


@contextmanager
def interruptible(farewell: Callable[[int], None], end: Callable[[int], None] = os._exit) -> Iterator[None]:
    """Run a command in the block: a signal raises `Interrupted`, and the process ends at most `END_SECONDS` later.

    The main thread may be in the midst of an operation of a library that knows no signals, for longer than a container
    is given to stop; then the process is ended from another thread. Nothing is lost that would not be lost by SIGKILL,
    before which every writer of kdcache is safe.

    Args:
        farewell: function called with the signal's number before the process is ended that way, to print a message.
        end: function that ends the process with an exit code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with stop_requests() as requests, _end_watch(requests, farewell, end), requests.interrupting():
        yield


@contextmanager
def _end_watch(requests: StopRequests, farewell: Callable[[int], None], end: Callable[[int], None]) -> Iterator[None]:
    """Check in a separate thread whether the process ends in time after a signal."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(reading, True)
    over = threading.Event()

    def watch() -> None:
        number = next((byte for byte in iter(lambda: os.read(reading, 1), b"") if byte[0] in STOP_SIGNALS), b"")
        if number and not over.wait(END_SECONDS - LAST_SECONDS):
            last = threading.Thread(target=_do_last_acts, daemon=True)
            last.start()
            last.join(LAST_SECONDS)
            if not over.is_set():
                farewell(number[0])
                end(128 + number[0])

    def tell(number: int) -> None:
        with suppress(OSError):
            os.write(writing, bytes([number]))

    # Python's own handlers run in the main thread between two of its operations; the file shows a signal at once.
    requests._wake, requests._wakeup = tell, writing
    watching = threading.Thread(target=watch, name="kdcache-signals", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        os.close(writing)
        watching.join()
        os.close(reading)


@contextmanager
def unsignalled() -> Iterator[None]:
    """Block the signals of `STOP_SIGNALS` within the block, and permanently in processes that are started in it.

    Processes inherit what is held back in the thread that starts them, from their first moment on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_last_acts: set[Callable[[], object]] = set()


@contextmanager
def last_act(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` in some thread before the process is ended from outside the main thread, while the block runs.

    As with the standard library's `atexit`, what is to be done when a process ends belongs to the process as a whole.
    """
    _last_acts.add(act)
    try:
        yield
    finally:
        _last_acts.discard(act)


def _do_last_acts() -> None:
    for act in list(_last_acts):
        act()
