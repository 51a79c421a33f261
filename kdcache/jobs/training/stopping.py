"""Stopping between two steps when a person or a scheduler asks for it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """A question that answers True after SIGINT or SIGTERM; a second signal stops at once, as it would without this.

    Signals belong to the main thread: elsewhere the answer is always False.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        asked.set()
        for caught, handler in before.items():
            signal.signal(caught, handler)

    for caught in (signal.SIGINT, signal.SIGTERM):
        before[caught] = signal.signal(caught, handle)
    try:
        yield asked.is_set
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
