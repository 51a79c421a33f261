"""The order of classes that a dump learns before it stores anything."""

import numpy as np
import pytest
import torch

from kdcache.cache.store import Cache
from kdcache.errors import UsageError
from kdcache.jobs import pilot
from kdcache.jobs.dump import dump
from kdcache.models.teachers import load_teacher
from kdcache.targets.kinds import make_coding
from kdcache.targets.order_learning import learn_order
from support.small_job import CLASSES, MODEL, SAMPLES, Heard, dump_request, tree_bytes

ORDER = f"teachers/{MODEL}/order/c/0/0"


def test_the_order_is_learned_from_the_first_views_and_the_classifier(job, tmp_path):
    dump(dump_request(job.data, tmp_path / "full", job.weights, job.policy, views=1))
    answers = Cache.open(tmp_path / "full").entry(MODEL)
    said = torch.cat([answers.read_block(0, block).log_probs(CLASSES) for block in range(answers.layout.blocks)])
    coding = make_coding("topk", CLASSES, k=CLASSES)
    head = load_teacher(MODEL, job.weights, device=torch.device("cpu"), precision="fp32", batch_size=16).class_vectors
    assert head is not None
    seen = 64  # 16 a class
    expected = learn_order(coding.keep(said[:seen], torch.full((seen, 2), -1)), head)  # type: ignore[arg-type]

    dump(dump_request(job.data, tmp_path / "topk", job.weights, job.policy, views=1, targets="topk"))
    stored = Cache.open(tmp_path / "topk").entry(MODEL).coding
    assert np.array_equal(stored.tables()["order"], expected.table)


def test_the_order_is_learned_once(job, tmp_path, monkeypatch):
    def request(**choice):
        return dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk", **choice)

    dump(request(views=1))
    before = tree_bytes(tmp_path / "cache")
    monkeypatch.setattr("kdcache.jobs.dump.learned_coding", lambda *_: pytest.fail("learned again"))
    dump(request(views=2))
    after = tree_bytes(tmp_path / "cache")
    assert {name: after[name] for name in before} == before
    assert ORDER in before


def test_no_more_views_are_asked_for_than_there_are(job, tmp_path, monkeypatch):
    monkeypatch.setattr(pilot, "pilot_rows", lambda classes: 10**9)
    dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=1, targets="topk"))
    assert (tmp_path / "cache" / ORDER).exists()


def test_a_dry_run_learns_from_what_it_answers_and_writes_nothing(job, tmp_path):
    report = dump(
        dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk", dry_run=True), Heard()
    )
    assert report.bytes_per_view > 0
    assert not (tmp_path / "cache").exists()


def test_full_answers_in_8_bits_are_close(job, tmp_path):
    said = []
    for dtype in (None, "uint8"):
        cache = tmp_path / str(dtype)
        dump(dump_request(job.data, cache, job.weights, job.policy, views=1, dtype=dtype))
        assert not (cache / ORDER).exists()
        entry = Cache.open(cache).entry(MODEL)
        said.append(torch.cat([entry.read_block(0, b).log_probs(CLASSES) for b in range(entry.layout.blocks)]))
    exact, coded = said
    assert len(exact) == SAMPLES
    assert not torch.equal(exact, coded)
    assert (exact.exp() * (exact - coded)).sum(1).mean().item() < 1e-3


def test_a_dtype_of_topk_is_refused(job, tmp_path):
    with pytest.raises(UsageError, match="--targets full"):
        dump(dump_request(job.data, tmp_path / "x", job.weights, job.policy, targets="topk", dtype="uint8"))
