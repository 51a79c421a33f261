"""In a dump and in a training the next view's order is computed ahead, and nothing of the present view waits for it."""

import threading
import time
from threading import Event

import pytest

from kdcache.data import order as orders
from kdcache.dumping.dump import dump
from kdcache.dumping.worker import MissingBlocks
from kdcache.models.students import create_student
from kdcache.training.train import train
from kdcache.views.viewset import ViewSet
from support.small_job import MODEL, SAMPLES, dump_request, stopped_after, train_request

LIMIT = 60  # seconds; a guard against hanging
AHEAD = "kdcache-order"


def running():
    return [thread for thread in threading.enumerate() if thread.name == AHEAD]


class Watched:
    """Notes which orders are computed, and whether ahead; one may be held up."""

    def __init__(self, monkeypatch):
        self.computed: list[tuple[str, int, bool]] = []
        self.asked: dict[int, Event] = {}
        self.may_end: dict[int, Event] = {}
        monkeypatch.setattr("kdcache.views.viewset.order", self._order)
        monkeypatch.setattr("kdcache.loader.schedule.reused_pairs", self._reused)

    def hold_up(self, number):
        self.asked[number], self.may_end[number] = Event(), Event()

    def _note(self, kind, number):
        self.computed.append((kind, number, threading.current_thread().name == AHEAD))

    def _wait(self, number, pause):
        if number in self.asked:
            self.asked[number].set()
            give_up_at = time.monotonic() + LIMIT
            while not self.may_end[number].wait(0.01):
                assert time.monotonic() < give_up_at
                pause()

    def _order(self, key_hash, windows, seed, group, pause):
        self._note("order", group)
        self._wait(group, pause)
        return orders.order(key_hash, windows, seed, group, pause)

    def _reused(self, pairs, block_pairs, unit_pairs, seed, group, cycle, pause):
        self._note("reused", group + 100 * cycle)
        self._wait(group + 100 * cycle, pause)
        return orders.reused_pairs(pairs, block_pairs, unit_pairs, seed, group, cycle, pause)


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


def test_a_dump_asks_for_the_next_order_before_the_last_block_and_goes_on_meanwhile(
    job, tmp_path, watched, monkeypatch
):
    watched.hold_up(1)
    block_rows = 32
    last_block = SAMPLES // block_rows * block_rows
    rows = ViewSet.rows

    def rows_of_batch(view_set, span):
        if span.view == 0 and span.start >= last_block:
            assert watched.asked[1].wait(LIMIT), "the next order has not been asked for"
        made = rows(view_set, span)
        if span.view == 0 and span.stop == SAMPLES:
            watched.may_end[1].set()  # every batch of the present view is under way, and none has waited
        return made

    monkeypatch.setattr(ViewSet, "rows", rows_of_batch)
    request = dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=3, batch_size=4)
    dump(request)
    assert watched.computed == [("order", 0, True), ("order", 1, True), ("order", 2, True)]
    assert not running()


def test_a_dump_that_ends_early_leaves_no_thread(job, tmp_path, watched, monkeypatch):
    watched.hold_up(1)

    def interrupted(blocks, view, block):
        assert watched.asked[1].wait(LIMIT)
        assert running()
        raise KeyboardInterrupt

    monkeypatch.setattr(MissingBlocks, "done", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=2))
    assert not running()


@pytest.mark.parametrize("source", ["labels", "cache", "live"])
def test_a_training_computes_all_orders_ahead(job, tmp_path, watched, source):
    how = {
        "labels": {"supervised": True},
        "cache": {"cache": str(job.cache)},
        "live": {"online_teacher": MODEL, "teacher_weights": job.weights, "cache": str(job.cache)},
    }[source]
    # 13 steps an epoch, three views that are shown twice.
    overrides = ("views.count=3", "batch_size=10")
    train(train_request(job.data, tmp_path / "run", epochs=6, renderer="pillow", overrides=overrides, **how))
    kinds = [(kind, number) for kind, number, _ in watched.computed]
    assert sorted(set(kinds)) == [("order", 0), ("order", 1), ("order", 2), *(("reused", 100 + g) for g in range(3))]
    assert all(ahead for _, _, ahead in watched.computed)
    assert len(kinds) == 6 + 3, "each once a visit"
    assert not running()


def test_a_training_that_goes_on_where_views_are_seen_again_computes_its_first_orders_ahead(
    job, tmp_path, watched, monkeypatch
):
    """Both are asked for before the student is made: those of the samples and, of a later cycle, of the pairs."""
    overrides = ("views.count=3", "batch_size=10")
    request = train_request(
        job.data, tmp_path / "run", epochs=6, renderer="pillow", overrides=overrides, supervised=True
    )
    with stopped_after(13 * 4 + 2):  # in the second visit of view 1
        train(request)
    watched.computed.clear()
    watched.hold_up(1)
    watched.hold_up(101)

    def create(*arguments, **choice):
        for number in (1, 101):
            assert watched.asked[number].wait(LIMIT), "nothing computes this order yet"
            watched.may_end[number].set()
        return create_student(*arguments, **choice)

    monkeypatch.setattr("kdcache.training.train.create_student", create)
    train(request)
    assert sorted(watched.computed) == [
        ("order", 1, True),
        ("order", 2, True),
        ("reused", 101, True),
        ("reused", 102, True),
    ]
    assert not running()
