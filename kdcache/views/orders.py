"""Orders of samples or pairs, of which a thread computes the next one before it is needed."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Event, Lock, Thread

import numpy as np
from jaxtyping import Int64

Order = Int64[np.ndarray, "n"]

#: A function that computes the order of a number. It calls its second argument every few milliseconds; an exception
#: from there ends it.
ComputeOrder = Callable[[int, Callable[[], None]], Order]

#: Orders that are held at once.
_MAX_HELD = 2

#: Pause between two looks at whether a wait for an order was ended, in seconds.
_POLL_S = 0.05


class _CancelledError(Exception):
    """An order that was being computed is no longer needed."""


class OrdersAhead:
    """Up to two orders: the last two that were asked for, or the last one and the one that comes next.

    There are two because the threads that read pixels and targets reach a new view at about the same time, but not
    together. An order of 14 million samples takes 112 MB of memory and two seconds of CPU time. Threads may share an
    instance.
    """

    def __init__(self, compute: ComputeOrder) -> None:
        self._compute = compute
        self._lock = Lock()
        #: Orders by number, in the sequence in which they were last asked for. A future is pending while its order is
        #: computed.
        self._held: OrderedDict[int, Future[Order]] = OrderedDict()
        #: Events that end the computation of orders ahead, by the order's number.
        self._cancelled: dict[int, Event] = {}
        self._threads: list[Thread] = []
        self._closed = False

    def fork(self) -> "OrdersAhead":
        """Return orders of their own that begin with those held here, so that closing them ends no wait for these."""
        forked = OrdersAhead(self._compute)
        with self._lock:
            forked._held.update(self._held)
        return forked

    def get(self, number: int) -> Order:
        """Return the order of `number`, which is computed here unless it is held or a thread computes it already.

        After `close`, and when another thread calls it meanwhile, this is an error: nobody needs the order any more.
        """
        while True:
            self._raise_if_closed()
            with self._lock:
                found = self._held.get(number)
                if found is None:
                    self._keep_last(_MAX_HELD - 1)
                    computed = self._held[number] = Future()
                else:
                    self._held.move_to_end(number)
            if found is None:
                self._fill(number, computed, self._raise_if_closed)
                return computed.result()
            while not found.done():
                self._raise_if_closed()
                wait([found], _POLL_S)
            try:
                return found.result()
            except _CancelledError:  # another was prepared meanwhile, so it is computed here
                with self._lock:
                    if self._held.get(number) is found:
                        del self._held[number]

    def prepare(self, number: int) -> None:
        """Begin to compute the order of `number` in a thread, unless it is held.

        Of the orders that are held, only the one that was last asked for stays.
        """
        with self._lock:
            if self._closed or number in self._held:
                return
            self._keep_last(_MAX_HELD - 1)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            computed = self._held[number] = Future()
            self._held.move_to_end(number, last=False)
            cancelled = self._cancelled[number] = Event()

            def pause() -> None:
                if cancelled.is_set():
                    raise _CancelledError

            thread = Thread(target=self._fill, args=(number, computed, pause), name="kdcache-order", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the threads that compute an order ahead, and every wait for an order; it may be called repeatedly."""
        with self._lock:
            self._closed = True
            for number in list(self._cancelled):
                self._drop(number)
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise _CancelledError

    def _keep_last(self, count: int) -> None:
        """Drop all orders but the `count` ones that were last asked for."""
        while len(self._held) > count:
            self._drop(next(iter(self._held)))

    def _drop(self, number: int) -> None:
        """Forget an order; if a thread is computing it, the thread ends."""
        del self._held[number]
        cancelled = self._cancelled.pop(number, None)
        if cancelled is not None:
            cancelled.set()

    def _fill(self, number: int, computed: "Future[Order]", pause: Callable[[], None]) -> None:
        """Compute an order into its future, which may have been dropped in the meantime."""
        try:
            order = self._compute(number, pause)
        except BaseException as error:  # is raised where the order is waited for
            with self._lock:
                if self._held.get(number) is computed:
                    del self._held[number]
                    self._cancelled.pop(number, None)
            computed.set_exception(error)
        else:
            with self._lock:
                if self._held.get(number) is computed:
                    self._cancelled.pop(number, None)
            computed.set_result(order)
