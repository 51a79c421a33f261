"""Iterators that run ahead in a thread with bounded memory, or are shared between threads."""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int = 2, name: str = "kdcache-prefetch") -> Generator[T, None, None]:
    """Yield the same items in the same order, computed up to `depth` ahead in a separate thread.

    An error of `items` is raised here, after the items that came before it. When the consumer stops early (closes
    this generator), the thread stops after the item it is at, and `items` is closed in that thread. `name` is that of
    the thread.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: T | _End) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        iterator = iter(items)
        error: BaseException | None = None
        try:
            for item in iterator:
                if not put(item):
                    break
        except BaseException as caught:  # handed to the consumer, whatever it is
            error = caught
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        put(_End(error))

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def shared(items: Iterable[T], readers: int) -> list[Iterator[T]]:
    """Return several iterators over the same items, one per thread; every item is computed once.

    What one has read is kept for the others, so memory is bounded by how far they are apart. Only who needs an item
    that has not been made yet waits until it is.
    """
    source = iter(items)
    making = threading.Lock()
    waiting: list[deque[T | _End]] = [deque() for _ in range(readers)]

    def read(own: "deque[T | _End]") -> Iterator[T]:
        while True:
            if not own:
                with making:
                    if not own:
                        made = _next(source)
                        for others in waiting:
                            others.append(made)
            item = own.popleft()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    return [read(own) for own in waiting]


def _next(source: Iterator[T]) -> "T | _End":
    try:
        return next(source)
    except StopIteration:
        return _End(None)
    except BaseException as error:  # handed to every reader
        return _End(error)
