"""Items that several threads read are made once, and nobody waits for what has been made."""

import threading
from itertools import count, islice
from threading import Event

import pytest

from kdcache.runtime.prefetch import shared

LIMIT = 60  # seconds; a guard against hanging


def test_each_reader_gets_every_item_and_each_is_made_once():
    made = []

    def items():
        for number in range(500):
            made.append(number)
            yield number

    read = [[], [], []]
    threads = [
        threading.Thread(target=into.extend, args=(reader,))
        for into, reader in zip(read, shared(items(), 3), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert read == [list(range(500))] * 3
    assert made == list(range(500))


def test_items_are_made_as_the_first_reader_needs_them():
    numbers = count()
    ahead, behind = shared(numbers, 2)
    assert list(islice(ahead, 5)) == [0, 1, 2, 3, 4]
    assert list(islice(behind, 3)) == [0, 1, 2]
    assert next(numbers) == 5


def test_who_is_behind_does_not_wait_for_what_is_being_made():
    begun, may_end = Event(), Event()

    def items():
        yield from (0, 1)
        begun.set()
        assert may_end.wait(LIMIT)
        yield 2

    ahead, behind = shared(items(), 2)
    found = []
    thread = threading.Thread(target=found.extend, args=(ahead,))
    thread.start()
    assert begun.wait(LIMIT)
    assert list(islice(behind, 2)) == [0, 1]
    may_end.set()
    thread.join(LIMIT)
    assert found == [0, 1, 2]
    assert list(behind) == [2]


def test_an_error_reaches_every_reader_behind_what_came_before():
    def items():
        yield 1
        raise MemoryError("no room")

    for reader in shared(items(), 2):
        assert next(reader) == 1
        with pytest.raises(MemoryError):
            next(reader)
