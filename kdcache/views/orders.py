"""Orders of samples or pairs by number, of which the next is computed by a thread before it is asked for."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Lock, Thread

import numpy as np
from jaxtyping import Int64

from kdcache.data.sorting import nothing

Order = Int64[np.ndarray, "n"]

#: Computes the order of a number. It calls its second argument every few milliseconds; what that raises ends it.
ComputeOrder = Callable[[int, Callable[[], None]], Order]

_HELD = 2


class _GivenUpError(Exception):
    """An order that was being computed ahead is not wanted any more."""


class OrdersAhead:
    """Holds two orders at most: the last two that were asked for, or the last one and the one that comes next.

    Two, because the threads that read pixels and targets come to a new view at about the same time, not at once. An
    order of 14 million samples takes 112 MB, and two CPU seconds to compute. May be used from several threads.
    """

    def __init__(self, compute: ComputeOrder) -> None:
        self._compute = compute
        self._lock = Lock()
        #: By number, the one that was asked for last at the end. A future is pending while its order is computed.
        self._held: OrderedDict[int, Future[Order]] = OrderedDict()
        #: What is computed ahead, by number: the event that ends it.
        self._given_up: dict[int, Event] = {}
        self._threads: list[Thread] = []

    def get(self, number: int) -> Order:
        """The order of `number`: what is held, or is being computed, else computed here."""
        while True:
            with self._lock:
                found = self._held.get(number)
                if found is None:
                    self._leave(_HELD - 1)
                    computed = self._held[number] = Future()
                else:
                    self._held.move_to_end(number)
            if found is None:
                self._fill(number, computed, nothing)
                return computed.result()
            try:
                return found.result()
            except _GivenUpError:  # meanwhile: it is computed here
                continue

    def prepare(self, number: int) -> None:
        """Begin to compute the order of `number` in a thread, unless it is there; only the last one asked for stays."""
        with self._lock:
            if number in self._held:
                return
            self._leave(_HELD - 1)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            computed = self._held[number] = Future()
            self._held.move_to_end(number, last=False)
            given_up = self._given_up[number] = Event()

            def pause() -> None:
                if given_up.is_set():
                    raise _GivenUpError

            thread = Thread(target=self._fill, args=(number, computed, pause), name="kdcache-order", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the threads that compute an order ahead; a later `get` computes it again. May be called repeatedly."""
        with self._lock:
            for number in list(self._given_up):
                self._drop(number)
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()

    def _leave(self, count: int) -> None:
        """Let go of all but the `count` orders that were asked for last."""
        while len(self._held) > count:
            self._drop(next(iter(self._held)))

    def _drop(self, number: int) -> None:
        del self._held[number]
        given_up = self._given_up.pop(number, None)
        if given_up is not None:
            given_up.set()

    def _fill(self, number: int, computed: "Future[Order]", pause: Callable[[], None]) -> None:
        try:
            order = self._compute(number, pause)
        except BaseException as error:  # is raised where the order is waited for
            with self._lock:
                if self._held.get(number) is computed:
                    del self._held[number]
                    self._given_up.pop(number, None)
            computed.set_exception(error)
        else:
            with self._lock:
                if self._held.get(number) is computed:
                    self._given_up.pop(number, None)
            computed.set_result(order)
