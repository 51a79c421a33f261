"""A cache of several teachers: none is touched by another, and a student learns from one, or from a mixture."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.dumping.dump import dump
from kdcache.errors import IdentityError, UsageError
from kdcache.inspection.rerun import RerunOptions
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.loader.batches import Steps, cached_batches
from kdcache.loader.cached_teachers import describe_scaled_weights, open_cached_teachers, parse_teachers
from kdcache.loader.live_teacher import WantedTeacher, open_live_teacher
from kdcache.loader.opening import stored_views
from kdcache.loader.schedule import Schedule
from kdcache.targets.topk_codec import TopKCodec
from kdcache.training.train import train
from kdcache.views.stream import Views
from support.small_job import CLASSES, MODEL, SAMPLES, Heard, dump_request, make_teacher, train_request, tree_bytes


@pytest.fixture(scope="module")
def cache(job, tmp_path_factory):
    """The second teacher came later, with other targets and one view more; nothing of the first changed."""
    root = tmp_path_factory.mktemp("several")
    dump(dump_request(job.data, root / "cache", job.weights, job.policy, renderer="pillow"))
    before = tree_bytes(root / "cache")
    other = make_teacher(root / "other", seed=8)
    choice = {"name": "other", "targets": "topk", "views": 3, "renderer": "pillow"}
    dump(dump_request(job.data, root / "cache", other, None, **choice))
    after = tree_bytes(root / "cache")
    assert {name: after[name] for name in before} == before
    return root / "cache"


def test_one_of_several_has_to_be_chosen(job, cache, tmp_path):
    def request(**choice):
        return train_request(job.data, tmp_path / "run", cache=str(cache), epochs=1, renderer="pillow", **choice)

    with pytest.raises(UsageError, match=r"holds other, test_resnet: choose one with --teacher, or mix them"):
        train(request())
    with pytest.raises(UsageError, match="give one of them"):
        train(request(teacher="other", teachers="other"))
    with pytest.raises(UsageError, match=r"no teacher 'third'"):
        train(request(teachers="other=1,third=2"))
    with pytest.raises(UsageError, match="--supervised"):
        train(request(teachers="other", supervised=True))
    assert not (tmp_path / "run").exists()


def test_a_student_gets_the_weighted_mean_of_what_was_stored(job, cache):
    opened = stored_views(Cache.open(cache), open_index(job.data))
    schedule = Schedule(
        samples=SAMPLES, views=2, repeats=1, batch_size=26, epochs=2, block_rows=opened.identity.block_rows, seed=0
    )
    steps = Steps(schedule)

    def open_stream(of, pixels):
        for indices in of:
            rows = opened.view_set.rows(indices)
            yield Views(rows, torch.zeros(len(rows.samples), 3, pixels, pixels))

    def said(teacher=None, teachers=None):
        stored = open_cached_teachers(Cache.open(cache), teacher, teachers)
        batches = cached_batches(steps, open_stream, 4, stored, opened.view_set)
        return [batch.targets.log_probs(num_classes=CLASSES) for batch in batches]

    both = said(teachers=f"{MODEL}=1,other=3")
    assert len(both) == 2 * (SAMPLES // 26)
    for mixed, one, other in zip(both, said(MODEL), said("other"), strict=True):
        assert torch.allclose(mixed.exp(), 0.25 * one.exp() + 0.75 * other.exp(), atol=1e-6)
        assert not torch.allclose(one, other, atol=1e-3)


def test_a_mixture_is_trained_from_and_belongs_to_the_run(job, cache, tmp_path):
    def request(teachers):
        return train_request(
            job.data, tmp_path / "run", cache=str(cache), epochs=2, renderer="pillow", teachers=teachers
        )

    train(request(f"{MODEL}=0.7,other=0.3"))
    assert (tmp_path / "run/export/model.safetensors").exists()
    with pytest.raises(Exception, match="teacher") as refused:
        train(request(f"{MODEL}=0.3,other=0.7"))
    assert type(refused.value).__name__ in ("RunError", "IdentityError")


def test_views_that_every_teacher_has_are_the_ones_there_are(cache):
    opened = Cache.open(cache)
    assert open_cached_teachers(opened, "other", None).complete_views() == 3
    assert open_cached_teachers(opened, None, f"other,{MODEL}").complete_views() == 2
    assert open_cached_teachers(opened, None, f"other,{MODEL}").capabilities == TopKCodec.capabilities


def test_teachers_of_other_classes_are_not_mixed(job, cache, tmp_path):
    path = Path(shutil.copytree(cache, tmp_path / "cache"))
    weights = make_teacher(tmp_path / "seven", classes=7)
    choice = {"name": "seven", "label_space": "none", "views": 1, "renderer": "pillow"}
    dump(dump_request(job.data, path, weights, None, **choice))
    with pytest.raises(IdentityError, match=r"num_classes 4 and seven 7"):
        open_cached_teachers(Cache.open(path), None, f"{MODEL},seven")


def test_weights_that_are_no_shares_are_told_with_what_they_come_to(job, cache, tmp_path):
    assert describe_scaled_weights("a=0.7,b=0.7") == (
        "The weights of --teachers sum to 1.4; divided by that, the student learns from 0.5 of a and 0.5 of b. Give "
        "weights that sum to 1 if other shares are meant."
    )
    for text in ("a=0.7,b=0.3", "a,b", "a", "a=0.3333,b=0.3333,c=0.3333"):
        assert describe_scaled_weights(text) is None
    heard = Heard()
    choice = {"cache": str(cache), "epochs": 1, "renderer": "pillow"}
    train(train_request(job.data, tmp_path / "run", teachers=f"{MODEL}=1,other=1", **choice), heard)
    assert any("sum to 2" in line for line in heard.warned)


def test_weights_are_shares():
    assert parse_teachers("a=0.7,b=0.3") == pytest.approx({"a": 0.7, "b": 0.3})
    assert parse_teachers("a=3, b=1") == pytest.approx({"a": 0.75, "b": 0.25})
    assert parse_teachers("a,b") == {"a": 0.5, "b": 0.5}
    for text in ("", "a=0", "a=-1,b=2", "a=x", "a,a", "a=nan", "a=inf,b=1", "a,,b", "=1", "a=0.5,b"):
        with pytest.raises(UsageError, match="--teachers"):
            parse_teachers(text)


def test_a_damaged_teacher_stops_none_of_the_others(job, cache, tmp_path):
    path = Path(shutil.copytree(cache, tmp_path / "cache"))
    (path / "teachers" / MODEL).rename(tmp_path / "gone")
    (path / "teachers/other/zarr.json").write_bytes(b"?")
    request = dump_request(job.data, path, job.weights, None, renderer="pillow", name="mine", views=1)
    assert dump(replace(request, dry_run=True)).to_come == SAMPLES
    assert dump(request).written > 0
    assert dump(replace(request, dry_run=True)).to_come == 0
    again = RerunOptions(job.data, MODEL, job.weights, samples=30, device="cpu", renderer="pillow")
    report = verify(VerifyOptions(str(path), again))
    assert {found.teacher for found in report.findings} == {"other"}
    assert report.comparison.agrees
    opened = Cache.open(path)
    views = stored_views(opened, open_index(job.data))
    heard = Heard()
    open_live_teacher(WantedTeacher(MODEL, job.weights), opened, views, torch.device("cpu"), heard)
    assert any("as mine did in the cache" in line for line in heard.said)
