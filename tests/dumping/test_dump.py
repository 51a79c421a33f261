"""`dump-logits`: whole views, the same bytes after any interruption, and nothing lost when something is wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.dumping.dump import dump
from kdcache.dumping.top1 import Top1, near_chance
from kdcache.errors import IdentityError, UsageError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.loader.opening import stored_views, views_for_dump
from kdcache.models.load import load_model
from kdcache.runtime.progress import silent
from kdcache.targets.full import FullCodec
from kdcache.views.policies import NAMED
from kdcache.views.viewset import RowRange
from support.small_cache import small_chunks
from support.small_job import CLASSES, MODEL, SAMPLES, Heard, dump_request, make_data, make_teacher, tree_bytes


class Tasks(Heard):
    """A progress that remembers what was opened."""

    def __init__(self):
        super().__init__()
        self.titles = []

        def task(title, total, unit="images", done=0):
            self.titles.append(title)
            return silent.task(title, total, unit, done)

        self.task = task


def test_the_cache_holds_the_teachers_own_targets(job):
    """Against the model itself, built by hand and run on one row at a time."""
    from contextlib import closing

    from kdcache.data.reader import SampleReader
    from kdcache.render.opening import open_renderer
    from kdcache.views.stream import stream_views

    cache, index = Cache.open(job.cache), open_index(job.data)
    view_set = stored_views(cache, index).view_set
    entry = cache.entry(MODEL)
    network = load_model(MODEL, job.weights)
    module = network.module.eval()
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (network.card.mean, network.card.std))
    stored = torch.cat(
        [entry.read_block(1, block).log_probs(num_classes=CLASSES) for block in range(entry.layout.blocks)]
    )
    with (
        open_renderer("dali", size=32, max_batch=SAMPLES) as renderer,
        closing(SampleReader(index)) as reader,
        torch.inference_mode(),
    ):
        (views,) = stream_views(view_set, reader, renderer, [RowRange(1, 0, SAMPLES)])
        expected = torch.cat([module((image[None] / 255 - mean) / std).log_softmax(1) for image in views.pixels])
    assert stored.shape == (SAMPLES, CLASSES)
    assert torch.allclose(stored, expected, atol=1e-5)
    assert expected.std(0).min() > 1e-3, "the outputs must differ, or any order of rows would pass"


def test_a_second_run_has_nothing_to_do(job):
    before = tree_bytes(job.cache)
    heard = Tasks()
    report = dump(dump_request(job.data, job.cache, job.weights, None, views=4), heard)
    assert report.written == 0
    assert report.views == 10, "it holds what it held"
    (line,) = report.lines()
    assert f"holds {SAMPLES} samples x 10 views of {MODEL} already: " in line
    assert "No block was missing, and nothing was written" in line
    assert heard.titles == []
    assert tree_bytes(job.cache) == before


def test_a_teacher_is_called_what_its_entry_is(job, tmp_path):
    heard = Tasks()
    dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=1, name="emb"), heard)
    assert f"emb over {SAMPLES} samples x 1 view" in heard.titles
    assert any(line.startswith(f"emb ({MODEL}, 4 classes) runs at") for line in heard.said)
    again = replace(dump_request(job.data, tmp_path / "cache", None, None, views=1), teacher=str(job.weights.parent))
    dump(replace(again, name="emb"), heard := Tasks())
    assert f"Loading the teacher, {job.weights.parent}." in heard.said
    dump(replace(again, teacher=f"local-dir:{job.weights.parent}", name="emb"), heard := Tasks())
    assert f"Loading the teacher, local-dir:{job.weights.parent}." in heard.said


def test_more_views_can_be_added_later(job, tmp_path):
    def request(views):
        return dump_request(job.data, tmp_path / "grown", job.weights, job.policy, views=views)

    dump(request(1))
    first = tree_bytes(tmp_path / "grown")
    report = dump(request(3))
    assert report.views == 3
    grown = tree_bytes(tmp_path / "grown")
    assert {name: grown[name] for name in first} == first
    assert Cache.open(tmp_path / "grown").entry(MODEL).complete_views() == 3


def test_a_second_teacher_gets_an_entry_of_its_own(job, tmp_path):
    cache = tmp_path / "cache"
    dump(dump_request(job.data, cache, job.weights, job.policy, views=1))
    before = tree_bytes(cache)
    other = make_teacher(tmp_path / "other", seed=8)
    with pytest.raises(IdentityError, match="weights") as refused:
        dump(dump_request(job.data, cache, other, None, views=1))
    assert refused.value.field == "weights"
    assert "under another name (dump-logits --name NAME)" in str(refused.value)
    assert tree_bytes(cache) == before
    dump(dump_request(job.data, cache, other, None, views=1, name="other"))
    after = tree_bytes(cache)
    assert {name: after[name] for name in before} == before
    assert Cache.open(cache).names() == ["other", MODEL]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"seed": 9}, "seed"), ({"policy": "crop"}, "policy"), ({"targets": "topk"}, "targets"),
     ({"batch_size": 8}, "batch_size"), ({"precision": "bf16"}, "precision")],
)  # fmt: skip
def test_settings_that_differ_from_the_caches_are_refused_by_name(job, change, field):
    before = tree_bytes(job.cache)
    with pytest.raises(IdentityError, match=field):
        dump(dump_request(job.data, job.cache, job.weights, **({"policy": None} | change)))
    assert tree_bytes(job.cache) == before


def test_another_data_set_is_refused(job, tmp_path):
    other = make_data(tmp_path / "other", seed=1)
    with pytest.raises(IdentityError, match=r"holds other images or labels than the cache .* was made from") as refused:
        dump(dump_request(other, job.cache, job.weights, None))
    assert refused.value.field == "fingerprint"
    message = str(refused.value)
    assert message.startswith(other)
    assert message.count(f"{SAMPLES}") >= 2, "how many samples are there, and here"
    assert not re.search(r"[0-9a-f]{17}", message), "as many digits as an eye compares"


def test_a_teacher_of_other_classes_needs_a_label_space_of_its_own(job, tmp_path):
    weights = make_teacher(tmp_path / "teacher", classes=7)
    with pytest.raises(IdentityError, match=r"4 classes, the teacher 7.*--label-space none"):
        dump(dump_request(job.data, tmp_path / "cache", weights, job.policy))
    report = dump(dump_request(job.data, tmp_path / "cache", weights, job.policy, label_space="none", targets="topk"))
    assert report.top1 is None
    assert report.written > 0


def test_a_dry_run_predicts_the_bytes_and_writes_nothing(job, tmp_path):
    def request(**choice):
        return dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk", **choice)

    predicted = dump(request(dry_run=True))
    assert not (tmp_path / "cache").exists()
    measured = dump(request())
    assert (predicted.samples, predicted.views, predicted.blocks) == (SAMPLES, 2, measured.blocks)
    assert predicted.bytes_per_view == pytest.approx(measured.bytes_per_view, rel=0.1)
    assert "bytes" in predicted.lines()[0]
    assert f"a KL of {predicted.kl:.3g} nats" in predicted.lines()[0]


def test_a_dry_run_counts_what_stands_beside_many_chunks_of_a_file(job, tmp_path):
    """Their names in the record, and the index: two thirds of it all, where chunks are as small as here."""

    def request(**choice):
        return dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="full", **choice)

    with small_chunks(FullCodec, 1):
        predicted, measured = dump(request(dry_run=True)), dump(request())
    assert predicted.bytes_per_view == pytest.approx(measured.bytes_per_view, rel=0.05)


@pytest.mark.parametrize(
    ("choice", "message"),
    [({"batch_size": 15}, "even"), ({"targets": "full", "k": 3}, "--k"), ({"targets": "topk", "k": 0}, "k is 0")],
)
def test_options_that_make_no_sense_are_refused(job, tmp_path, choice, message):
    with pytest.raises(UsageError, match=message):
        dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, **choice))
    assert not (tmp_path / "cache").exists()


def test_the_teachers_top1_is_said(job, tmp_path):
    heard = Heard()
    report = dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy), heard)
    assert any(f"top-1 on the first block of this run: {report.top1:.1%} of " in line for line in heard.said)


@pytest.mark.parametrize(
    ("right", "seen", "classes", "near"),
    [(2, 1024, 1000, True), (100, 1024, 10, True), (300, 1024, 10, False), (5, 16, 3, False), (900, 1000, 1000, False)],
)
def test_a_teacher_is_near_chance_only_where_that_is_sure(right, seen, classes, near):
    assert near_chance(right, seen, classes) == near


def test_a_teacher_that_knows_nothing_is_warned_of():
    heard = Heard()
    top1 = Top1()
    top1.right, top1.seen = 10, 1000
    top1.say(100, "teacher", heard)
    assert any("near chance" in line for line in heard.warned)


def test_classes_of_other_names_are_refused(job, tmp_path):
    """Equal counts, other order: every label would mean another class."""
    from kdcache.models.load import load_model
    from kdcache.training.export import export_model

    names = json.loads((Path(job.data) / "classes.json").read_text())
    network = load_model(MODEL, job.weights)
    same = export_model(tmp_path / "same", network, class_names=names)
    other = export_model(tmp_path / "other", network, class_names=names[::-1])
    dump(dump_request(job.data, tmp_path / "cache", same, job.policy, views=1))
    with pytest.raises(IdentityError, match=r"class 0.*class 3"):
        dump(dump_request(job.data, tmp_path / "cache2", other, job.policy, views=1))
    assert evaluate(EvaluateOptions(str(same.parent), job.data, device="cpu")).samples == SAMPLES
    with pytest.raises(IdentityError, match=r"class 0.*class 3"):
        evaluate(EvaluateOptions(str(other.parent), job.data, device="cpu"))


def test_another_policy_is_refused_by_names_and_then_by_fields(job, tmp_path):
    with pytest.raises(
        IdentityError, match=r"with a policy of its own, and crop was asked for: leave --policy out"
    ) as no:
        dump(dump_request(job.data, job.cache, job.weights, "crop"))
    assert no.value.field.startswith("policy.")
    assert "auto_augment (rand-m7-mstd0.5-inc1 there, nothing in crop)" in str(no.value)
    assert re.search(r"\) and \d+ more\.$", str(no.value))
    opened = views_for_dump(str(job.cache), open_index(job.data), None, None, silent)
    named = Cache.create(
        tmp_path / "named", replace(opened.identity, policy=NAMED["a2"].to_json()), opened.view_set.windows
    )
    with pytest.raises(
        IdentityError, match=r"was made with policy a2, and a1 was asked for: .* differ in mixup \(0\.1 "
    ):
        dump(dump_request(job.data, Path(named.location), job.weights, "a1"))


def test_another_renderer_is_warned_of_but_not_refused(job, tmp_path):
    cache = tmp_path / "cache"
    dump(dump_request(job.data, cache, job.weights, job.policy, views=1))
    heard = Heard()
    dump(dump_request(job.data, cache, job.weights, None, views=2, renderer="pillow"), heard)
    assert any("renderer" in line for line in heard.warned)
    assert Cache.open(cache).entry(MODEL).complete_views() == 2


def test_an_odd_last_row_is_stored(job):
    entry = Cache.open(job.cache).entry(MODEL)
    start, stop = entry.layout.block_range(entry.layout.blocks - 1)
    assert stop == SAMPLES
    labels = np.full((stop - start, 2), -1)
    view_set = stored_views(Cache.open(job.cache), open_index(job.data)).view_set
    labels = view_set.rows(RowRange(0, start, stop)).labels
    assert len(entry.read_block(0, entry.layout.blocks - 1)) == stop - start
    assert labels[-1, 1] == -1


def test_each_block_records_what_its_coding_loses(job, tmp_path):
    """KL(output || stored) over the block's first batch; the outputs themselves come from a full cache."""
    dump(dump_request(job.data, tmp_path / "topk", job.weights, job.policy, targets="topk", k=2, min_prob=0.0))
    entry, full = (Cache.open(place).entry(MODEL) for place in (tmp_path / "topk", job.cache))
    view_set = stored_views(Cache.open(job.cache), open_index(job.data)).view_set
    for block in range(entry.layout.blocks):
        start, stop = entry.layout.block_range(block)
        labels = torch.from_numpy(view_set.rows(RowRange(1, start, stop)).labels)
        said = full.read_block(1, block).log_probs(num_classes=CLASSES)[:16].double()
        stored = entry.read_block(1, block).with_labels(labels).log_probs(num_classes=CLASSES)[:16].double()
        assert entry.record(1, block).kl == pytest.approx(float((said.exp() * (said - stored)).sum(1).mean()), rel=0.01)
        assert entry.record(1, block).kl > 0
        assert full.record(1, block).kl == 0


def test_a_dry_run_needs_no_whole_block(job, tmp_path):
    """Blocks of many batches, of which it computes a few."""
    report = dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, batch_size=2, dry_run=True))
    assert report.images_per_s > 0
    assert report.bytes_per_view > 0


def test_a_dry_run_tells_what_is_still_to_come(job, tmp_path):
    def request(views, **choice):
        return dump_request(
            job.data, tmp_path / "cache", job.weights, job.policy, views=views, targets="topk", dry_run=True, **choice
        )

    def line(views):
        (found,) = dump(request(views)).lines()
        return found

    assert "still missing" not in line(1)
    dump(replace(request(1), dry_run=False))
    before = tree_bytes(tmp_path / "cache")
    assert "all of which the cache holds already" in line(1)
    report = dump(request(2))
    assert report.to_come == SAMPLES
    assert f"of which {SAMPLES} targets are still missing, about" in report.lines()[0]
    assert tree_bytes(tmp_path / "cache") == before
    teacher = tmp_path / f"cache/teachers/{MODEL}"
    (teacher / "records/0/1.json").unlink()
    (teacher / "order/c/0/0").unlink()
    assert "of which 32 targets are still missing" in line(1)


def test_a_dry_run_refuses_what_the_dump_would_refuse(job, tmp_path):
    other = make_teacher(tmp_path / "other", seed=8)
    with pytest.raises(IdentityError, match="weights"):
        dump(dump_request(job.data, job.cache, other, None, dry_run=True))
