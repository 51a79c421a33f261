"""A cache whose lost samples are known stays usable for the rest: what is there stays, and nobody learns from a gap."""

import io
import re
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kdcache.cache.layout import record_key
from kdcache.cache.lost import lost_names
from kdcache.cache.store import Cache
from kdcache.cache.stream import stream_targets
from kdcache.data.index import key_hash, open_index
from kdcache.dumping.dump import dump
from kdcache.errors import BrokenImageError, IdentityError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.inspection.check import check
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.preview import PreviewOptions, preview
from kdcache.inspection.rerun import RerunOptions, prepare_rerun, rerun
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.loader.opening import stored_views, with_lost_of
from kdcache.runtime.progress import silent
from kdcache.training.train import train
from kdcache.views.viewset import RowRange
from support.shards import make_samples, write_set
from support.small_job import CLASSES, MODEL, SAMPLES, Heard, dump_request, train_request, tree_bytes

LOST = "img-00060"


def write_data(folder, *, broken):
    """The samples of the small job; one of them is a PNG, which damage leaves as long as it is."""
    made = make_samples(SAMPLES, (36, 44), CLASSES, seed=0)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(made[60].data)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    if broken:
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    made[60] = made[60]._replace(data=bytes(data), ext="png")
    return write_set(folder, made, shards=3)


@pytest.fixture(scope="module")
def story(job, tmp_path_factory):
    """Data, a cache whose dump met a broken image and went on when it was marked, and what was there before."""
    root = tmp_path_factory.mktemp("lost")
    data = write_data(root / "data", broken=True)
    request = dump_request(str(data), root / "cache", job.weights, job.policy, renderer="pillow")
    with pytest.raises(BrokenImageError, match=rf"{LOST}.*`kdcache index {data} --mark-bad` marks them as lost, and"):
        dump(request)
    before = tree_bytes(root / "cache" / "teachers")
    assert Cache.open(root / "cache").entry(MODEL).recorded(0)
    found = check(str(data), mark_bad=True, renderer="pillow")
    assert [sample.key for sample in found.lost] == [LOST]
    heard = Heard()
    report = dump(request, heard)
    assert report.views == 2
    assert any(line.startswith("1 sample of 131 is lost: a grey image takes the place of each") for line in heard.said)
    return request, before


def opened(cache, data):
    return stored_views(Cache.open(cache), open_index(data))


def stored_log_probs(cache, view):
    """Log-probabilities of all rows of a view."""
    entry = Cache.open(cache).entry(MODEL)
    rows = np.arange(entry.layout.samples)
    with closing(stream_targets(entry, [(np.full_like(rows, view), rows)])) as stream:
        (targets,) = stream
    return targets.log_probs(num_classes=CLASSES)


def test_what_was_dumped_before_stays_as_it_was(story):
    request, before = story
    cache = Cache.open(request.cache)
    after = tree_bytes(cache.files.root / "teachers")
    assert before
    assert {path: after[path] for path in before} == before
    assert cache.lost() == {LOST}
    assert "  lost       1 sample, whose pairs training skips" in inspect(InspectOptions(request.cache)).lines()


def test_records_name_the_list_of_what_was_lost_when_their_block_was_made(story):
    request, before = story
    cache = Cache.open(request.cache)
    entry, (name,) = cache.entry(MODEL), lost_names(cache.files)
    for view in range(2):
        for block in range(entry.layout.blocks):
            was_there = record_key(MODEL, view, block).removeprefix("teachers/") in before
            assert entry.own_record(view, block).lost == (None if was_there else name)


def test_views_know_what_is_lost_by_now(story, tmp_path):
    """What a dump that goes on notes after the views were opened, and before they were counted."""
    request, _ = story
    copy_cache(CopyOptions(str(request.cache), str(tmp_path / "cache")))
    views = opened(tmp_path / "cache", request.data)
    index = views.view_set.index
    other = index.key(0) if index.key(0) != LOST else index.key(1)
    Cache.open(tmp_path / "cache", read_only=False).add_lost([other])
    later = with_lost_of(views, Cache.open(tmp_path / "cache")).view_set
    assert {index.key(row) for row in later.lost.tolist()} == {LOST, other}


def test_its_pair_is_not_held_against_the_labels(story):
    request, _ = story
    found = inspect(InspectOptions(str(request.cache), data=request.data)).teachers[0].statistics
    views, right, counted = opened(request.cache, request.data).view_set, 0, 0
    for view in range(2):
        rows = views.rows(RowRange(view, 0, SAMPLES))
        known = ~views.holds_lost(rows.samples)
        main = np.where(rows.weight >= 0.5, rows.labels[:, 0], rows.labels[:, 1])
        right += int((stored_log_probs(request.cache, view).argmax(1).numpy() == main)[known].sum())
        counted += int(known.sum())
    assert counted < found.looked_at
    assert found.top1 == pytest.approx(right / counted)


def test_a_contact_sheet_says_that_it_is_lost(story, tmp_path):
    request, _ = story
    preview(PreviewOptions(request.data, tmp_path / "sheet.html", samples=(LOST,), views=1, renderer="pillow"))
    assert re.search(rf"{LOST} \([^)]*, lost\)", (tmp_path / "sheet.html").read_text())


def test_every_other_pair_has_the_targets_that_it_has_without_the_loss(job, story, tmp_path):
    request, _ = story
    whole = write_data(tmp_path / "data", broken=False)
    reference = replace(request, data=str(whole), cache=str(tmp_path / "cache"))
    dump(reference)
    views = opened(request.cache, request.data).view_set
    for view in range(2):
        lost = torch.from_numpy(views.holds_lost(views.order(view)))
        assert lost.sum() in (1, 2)
        ours, theirs = stored_log_probs(request.cache, view), stored_log_probs(reference.cache, view)
        assert torch.allclose(ours[~lost], theirs[~lost], atol=1e-6)
        assert not torch.allclose(ours[lost], theirs[lost], atol=1e-3)


@pytest.mark.parametrize("source", ["cache", "labels", "live"])
def test_a_training_goes_on_and_never_sees_what_is_lost(job, story, tmp_path, monkeypatch, source):
    request, _ = story

    def seen(height, width):
        raise AssertionError("a lost image was asked for")

    monkeypatch.setattr("kdcache.data.reader.grey_image", seen)
    choice = {
        "cache": {"cache": request.cache},
        "labels": {"supervised": True},
        "live": {"online_teacher": MODEL, "teacher_weights": job.weights, "cache": request.cache},
    }[source]
    heard = Heard()
    # Three epochs of two views: one of them is seen again.
    epochs = 3 if source == "cache" else 1
    train(train_request(request.data, tmp_path / "run", epochs=epochs, renderer="pillow", **choice), heard)
    assert any(line.startswith("1 sample of 131 is lost: in each view another pair is seen") for line in heard.said)


def test_the_rest_is_verified_by_the_teacher(job, story):
    request, _ = story
    rerun = RerunOptions(
        data=request.data, teacher=MODEL, weights=job.weights, samples=2 * SAMPLES, device="cpu", renderer="pillow"
    )
    report = verify(VerifyOptions(request.cache, rerun=rerun))
    assert report.findings == ()
    assert report.comparison is not None
    assert report.comparison.agrees
    assert 2 * SAMPLES - 4 <= report.comparison.samples <= 2 * SAMPLES - 2


@pytest.fixture
def lost_meanwhile(job, tmp_path, monkeypatch):
    """A cache of grey images for one sample, which verify and inspect opened before that was noted anywhere."""
    data = write_data(tmp_path / "data", broken=False)
    request = dump_request(str(data), tmp_path / "cache", job.weights, job.policy, renderer="pillow")
    broken = write_data(tmp_path / "broken", broken=True)
    check(str(broken), mark_bad=True, renderer="pillow")
    dump(replace(request, data=str(broken)))
    lost = Cache.lost
    asked = []

    def noted_later(cache):
        asked.append(cache)
        return frozenset() if len(asked) == 1 else lost(cache)

    monkeypatch.setattr(Cache, "lost", noted_later)
    return request


def test_what_a_dump_loses_while_verify_runs_is_not_compared(job, lost_meanwhile):
    prepared = prepare_rerun(
        Cache.open(lost_meanwhile.cache),
        RerunOptions(lost_meanwhile.data, MODEL, job.weights, 2 * SAMPLES, device="cpu", renderer="pillow"),
        silent,
    )
    comparison, _ = rerun(prepared, set(), silent)
    assert comparison.agrees
    assert comparison.worst_kl == pytest.approx(comparison.worst_encoding, abs=1e-5)
    assert 2 * SAMPLES - 4 <= comparison.samples <= 2 * SAMPLES - 2


def test_what_a_dump_loses_while_inspect_runs_is_not_held_against_the_labels(lost_meanwhile):
    options = InspectOptions(lost_meanwhile.cache, data=lost_meanwhile.data)
    meanwhile, known = (inspect(options).teachers[0].statistics.top1 for _ in range(2))
    assert meanwhile == known


def test_an_image_that_is_repaired_is_still_passed_over_in_this_cache(job, story, tmp_path):
    """Its rows hold targets of the grey image, or of its own: nobody knows."""
    request, _ = story
    data = write_data(tmp_path / "data", broken=False)
    assert len(open_index(data).lost) == 0
    views = opened(request.cache, data).view_set
    assert [views.index.key(row) for row in views.lost.tolist()] == [LOST]
    assert opened(job.cache, job.data).view_set.lost.tolist() == []


def test_an_evaluation_leaves_it_out(job, story):
    request, _ = story
    found = evaluate(EvaluateOptions(str(job.weights.parent), request.data, device="cpu"))
    index = open_index(request.data)
    assert found.samples == SAMPLES - 1
    assert not found.correct[np.flatnonzero(index.key_hash == key_hash(LOST))].any()
    assert found.top1 == pytest.approx(found.correct.sum() / (SAMPLES - 1))


def test_data_without_the_sample_are_refused_with_the_way_back(story, tmp_path):
    request, _ = story
    data = write_data(tmp_path / "data", broken=True)
    check(str(data), drop_bad=True, renderer="pillow")
    with pytest.raises(
        IdentityError, match=rf"remove the index {data}/kdcache-index and run `kdcache index {data} --mark"
    ):
        opened(request.cache, data)
