"""The next order is computed by a thread before it is asked for; two are held at most; closing ends the thread."""

import threading
import time
from threading import Event

import numpy as np
import pytest

from kdcache.views.orders import OrdersAhead, _CancelledError

LIMIT = 60  # seconds; a guard against hanging


class Computing:
    """Orders that are computed when they may be, and who computed them."""

    def __init__(self):
        self.begun: dict[int, Event] = {}
        self.may_end: dict[int, Event] = {}
        self.log: list[tuple[int, str]] = []
        self.given_up: list[int] = []

    def block(self, number):
        self.begun[number], self.may_end[number] = Event(), Event()

    def __call__(self, number, pause):
        self.log.append((number, threading.current_thread().name))
        if number in self.begun:
            self.begun[number].set()
            give_up_at = time.monotonic() + LIMIT
            while not self.may_end[number].wait(0.001):
                assert time.monotonic() < give_up_at
                try:
                    pause()
                except BaseException:
                    self.given_up.append(number)
                    raise
        return np.full(3, number)

    @property
    def numbers(self):
        return [number for number, _ in self.log]


@pytest.fixture
def computing():
    return Computing()


@pytest.fixture
def orders(computing):
    orders = OrdersAhead(computing)
    yield orders
    orders.close()
    assert not running()


def running():
    return [thread for thread in threading.enumerate() if thread.name == "kdcache-order"]


def test_the_present_order_can_be_had_while_the_next_is_computed(orders, computing):
    orders.get(0)
    computing.block(1)
    orders.prepare(1)
    assert computing.begun[1].wait(LIMIT)
    for _ in range(3):
        orders.prepare(1)
        assert orders.get(0)[0] == 0
    computing.may_end[1].set()
    assert orders.get(1)[0] == 1
    here = threading.current_thread().name
    assert computing.log == [(0, here), (1, "kdcache-order")]


def test_who_comes_to_it_early_waits_for_the_thread_and_computes_nothing(orders, computing):
    computing.block(1)
    orders.prepare(1)
    got = []
    waiting = threading.Thread(target=lambda: got.append(orders.get(1)[0]))
    waiting.start()
    assert computing.begun[1].wait(LIMIT)
    assert not got
    computing.may_end[1].set()
    waiting.join(LIMIT)
    assert got == [1]
    assert computing.numbers == [1]


def test_two_are_held_at_most(orders, computing):
    for number in (0, 1, 0, 1):
        orders.get(number)
    assert computing.numbers == [0, 1], "those who read pixels and targets come to a new view one after the other"
    orders.prepare(2)
    orders.get(2)
    orders.get(1)
    assert computing.numbers == [0, 1, 2]
    orders.get(0)
    assert computing.numbers == [0, 1, 2, 0]


@pytest.mark.parametrize("instead", ["get", "prepare"])
def test_what_is_not_wanted_any_more_is_given_up(orders, computing, instead):
    orders.get(0)
    computing.block(1)
    orders.prepare(1)
    assert computing.begun[1].wait(LIMIT)
    getattr(orders, instead)(2)
    assert orders.get(2)[0] == 2
    give_up_at = time.monotonic() + LIMIT
    while computing.given_up != [1]:
        assert time.monotonic() < give_up_at
    del computing.begun[1]
    assert orders.get(1)[0] == 1


def waiting_for(orders, number):
    """A thread that waits for an order, and what it got or met."""
    found = []

    def ask():
        try:
            found.append(int(orders.get(number)[0]))
        except BaseException as error:
            found.append(type(error).__name__)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, found


def test_closing_early_leaves_no_thread_and_nobody_who_waits(orders, computing):
    orders.get(0)
    computing.block(1)
    orders.prepare(1)
    assert computing.begun[1].wait(LIMIT)
    waiting, found = waiting_for(orders, 1)
    orders.close()
    assert not running()
    assert computing.given_up == [1]
    waiting.join(LIMIT)
    assert found == ["_CancelledError"]
    orders.prepare(2)
    with pytest.raises(_CancelledError):
        orders.get(2)
    assert computing.numbers == [0, 1], "whoever comes later computes nothing either"


def test_closing_ends_an_order_that_is_computed_where_it_is_asked_for(orders, computing):
    computing.block(1)
    waiting, found = waiting_for(orders, 1)
    assert computing.begun[1].wait(LIMIT)
    orders.close()
    waiting.join(LIMIT)
    assert found == ["_CancelledError"]
    assert computing.given_up == [1]


def test_what_one_consumer_closes_another_still_gets(orders, computing):
    orders.get(0)
    computing.block(1)
    orders.prepare(1)
    assert computing.begun[1].wait(LIMIT)
    first, second = orders.fork(), orders.fork()
    assert first.get(0)[0] == 0
    waiting, found = waiting_for(first, 1)
    second.close()
    computing.may_end[1].set()
    waiting.join(LIMIT)
    assert found == [1]
    assert computing.numbers == [0, 1], "each once"


def test_an_order_that_was_given_up_elsewhere_is_computed_by_who_waits_for_it(orders, computing):
    computing.block(1)
    orders.prepare(1)
    assert computing.begun[1].wait(LIMIT)
    other = orders.fork()
    waiting, found = waiting_for(other, 1)
    computing.begun[1].clear()
    orders.close()
    assert computing.begun[1].wait(LIMIT)
    computing.may_end[1].set()
    waiting.join(LIMIT)
    assert found == [1]


def test_what_the_thread_failed_at_is_tried_where_the_order_is_asked_for():
    failures = [MemoryError("no room")]

    def compute(number, pause):
        if failures:
            raise failures.pop()
        return np.full(3, number)

    orders = OrdersAhead(compute)
    orders.prepare(4)
    orders._threads[0].join(LIMIT)
    assert not failures
    assert orders.get(4)[0] == 4
    failures.append(MemoryError("no room"))
    with pytest.raises(MemoryError):
        orders.get(5)
    assert orders.get(5)[0] == 5
