"""The order of classes that a dump learns before it stores anything."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdcache.cache.claims import block_claim
from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.dumping import calibration, waiting
from kdcache.dumping.dump import dump
from kdcache.errors import IdentityError, UsageError
from kdcache.models.teachers import load_teacher
from kdcache.targets.class_order_calibration import learn_order
from kdcache.targets.kinds import create_codec
from support.small_job import CLASSES, MODEL, SAMPLES, Heard, dump_request, make_teacher, tree_bytes

ORDER = f"teachers/{MODEL}/order/c/0/0"


def test_the_order_is_learned_from_the_first_views_and_the_classifier(job, tmp_path):
    dump(dump_request(job.data, tmp_path / "full", job.weights, job.policy, views=1))
    stored = Cache.open(tmp_path / "full").entry(MODEL)
    said = torch.cat(
        [stored.read_block(0, block).log_probs(num_classes=CLASSES) for block in range(stored.layout.blocks)]
    )
    codec = create_codec("topk", CLASSES, k=CLASSES)
    head = load_teacher(MODEL, job.weights, device=torch.device("cpu"), precision="fp32", batch_size=16).class_vectors
    assert head is not None
    seen = stored.layout.block_rows  # 16 a class would be more than a block
    expected = learn_order(codec.select(said[:seen], torch.full((seen, 2), -1)), head)  # type: ignore[arg-type]

    dump(dump_request(job.data, tmp_path / "topk", job.weights, job.policy, views=1, targets="topk"))
    stored = Cache.open(tmp_path / "topk").entry(MODEL).codec
    assert np.array_equal(stored.tables()["order"], expected.table)


def test_the_order_is_learned_once(job, tmp_path, monkeypatch):
    def request(**choice):
        return dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk", **choice)

    dump(request(views=1))
    before = tree_bytes(tmp_path / "cache")
    monkeypatch.setattr(calibration, "learn_order", lambda *_: pytest.fail("learned again"))
    dump(request(views=2))
    after = tree_bytes(tmp_path / "cache")
    assert {name: after[name] for name in before} == before
    assert ORDER in before


class Counting(Heard):
    """Remembers how far each task came."""

    def __init__(self):
        super().__init__()
        self.done, self.task = {}, self._task

    @contextmanager
    def _task(self, title, total, done=0, unit=""):
        self.done[title] = done

        def advance(count=1):
            self.done[title] += count

        yield SimpleNamespace(advance=advance)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("rows", [1, 20, 10**9], ids=["a batch", "half a block", "all that can be"])
def test_what_an_order_is_learned_from_is_not_asked_for_twice(job, tmp_path, monkeypatch, launched_rows, rows):
    """Nor does the cache show whether it was: a dump that found the entry there has the same bytes."""
    monkeypatch.setattr(calibration, "calibration_rows", lambda classes: rows)
    batch = {"batch_size": 8, "targets": "topk", "views": 1}
    heard = Heard()
    report = dump(dump_request(job.data, tmp_path / "one", job.weights, job.policy, **batch), heard)
    assert sum(launched_rows) == SAMPLES
    assert (report.written, report.blocks) == (5, 5)
    assert any(f"top-1 on the first block of this run: {report.top1:.1%} of 32" in line for line in heard.said)

    with monkeypatch.context() as patch:
        patch.setattr(Entry, "open_block", lambda *_: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            dump(dump_request(job.data, tmp_path / "two", job.weights, job.policy, **batch))
    assert Cache.open(tmp_path / "two").entry(MODEL).complete_views() == 0
    dump(dump_request(job.data, tmp_path / "two", job.weights, job.policy, **batch))
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


def test_an_order_that_was_lost_is_learned_again(job, tmp_path):
    def request(weights, **choice):
        return dump_request(job.data, tmp_path / "cache", weights, job.policy, targets="topk", views=1, **choice)

    dump(request(job.weights))
    before = tree_bytes(tmp_path / "cache")
    (tmp_path / "cache" / ORDER).write_bytes(b"damaged")
    with pytest.raises(IdentityError, match="weights"):
        dump(request(make_teacher(tmp_path / "other", seed=8)))
    dump(request(job.weights))
    assert tree_bytes(tmp_path / "cache") == before


def test_of_a_first_block_that_is_there_no_more_is_asked_than_its_order_takes(
    job, tmp_path, monkeypatch, launched_rows
):
    monkeypatch.setattr(calibration, "calibration_rows", lambda classes: 1)
    choice = {"targets": "topk", "batch_size": 8, "views": 1}
    request = dump_request(job.data, tmp_path / "cache", job.weights, job.policy, **choice)
    dump(request)
    before = tree_bytes(tmp_path / "cache")
    for lost in (ORDER, f"teachers/{MODEL}/records/0/2.json"):
        (tmp_path / "cache" / lost).unlink()
    launched_rows.clear()
    heard = Counting()
    report = dump(request, heard)
    assert sum(launched_rows) == 8 + 32, "a batch for the order, and the block that is missing"
    assert report.written == 1
    assert report.top1 is not None
    assert any(f"{report.top1:.1%} of 32" in line for line in heard.said)
    assert heard.done[f"{MODEL} over {SAMPLES} samples x 1 view"] == SAMPLES
    assert tree_bytes(tmp_path / "cache") == before


def test_many_classes_of_many_targets_are_not_held(job, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MAX_HELD", 20 * CLASSES)
    told = []
    monkeypatch.setattr(
        calibration, "learn_order", lambda targets, head: told.append(len(targets)) or learn_order(targets, head)
    )
    dump(dump_request(job.data, tmp_path / "x", job.weights, job.policy, targets="topk", batch_size=8, views=1))
    assert told == [24]


def test_another_process_that_learns_the_order_is_waited_for(job, tmp_path, monkeypatch, launched_rows):
    monkeypatch.setattr(waiting, "PAUSE", 0.05)
    monkeypatch.setattr(waiting, "QUIET", 0.0)
    request = dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk", views=1)
    dump(dump_request(job.data, tmp_path / "whole", job.weights, job.policy, targets="topk", views=1))
    cache = Cache.open(tmp_path / "whole")
    Cache.create(tmp_path / "cache", cache.view_set, cache.windows)
    launched_rows.clear()
    heard = Heard()
    with Cache.open(tmp_path / "cache", read_only=False).claims() as other:
        assert other.take(block_claim(MODEL, 0, 0))
        thread = threading.Thread(target=dump, args=(request, heard))
        thread.start()
        deadline = time.monotonic() + 60
        while not any("is learned: process" in line for line in heard.said):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert launched_rows == []
    thread.join(60)
    assert sum(launched_rows) == SAMPLES
    assert tree_bytes(tmp_path / "cache") == tree_bytes(tmp_path / "whole")


def test_no_more_views_are_asked_for_than_there_are(job, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "calibration_rows", lambda classes: 10**9)
    dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=1, targets="topk"))
    assert (tmp_path / "cache" / ORDER).exists()


def test_a_dry_run_learns_from_what_it_computes_and_writes_nothing(job, tmp_path):
    report = dump(
        dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk", dry_run=True), Heard()
    )
    assert report.bytes_per_view > 0
    assert not (tmp_path / "cache").exists()


def test_full_targets_in_8_bits_are_close(job, tmp_path):
    said = []
    for dtype in (None, "uint8"):
        cache = tmp_path / str(dtype)
        dump(dump_request(job.data, cache, job.weights, job.policy, views=1, dtype=dtype))
        assert not (cache / ORDER).exists()
        entry = Cache.open(cache).entry(MODEL)
        said.append(
            torch.cat([entry.read_block(0, b).log_probs(num_classes=CLASSES) for b in range(entry.layout.blocks)])
        )
    exact, coded = said
    assert len(exact) == SAMPLES
    assert not torch.equal(exact, coded)
    assert (exact.exp() * (exact - coded)).sum(1).mean().item() < 1e-3


def test_a_dtype_of_topk_is_refused(job, tmp_path):
    with pytest.raises(UsageError, match="--targets full"):
        dump(dump_request(job.data, tmp_path / "x", job.weights, job.policy, targets="topk", dtype="uint8"))
