"""Training with objectives beyond vanilla distillation: from a cache, resumed, and refused where something lacks."""

import csv
import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file

from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, ModelError, UsageError
from kdcache.training.config import read_config
from kdcache.training.train import train
from support.small_job import Heard, dump_request, stopped_after, train_request


def request_for(job, out, name, *overrides, **choice):
    settings = {"cache": str(job.cache), "epochs": 3, "overrides": (f"objective.name={name}", *overrides)}
    return train_request(job.data, out, **(settings | choice))


def student(out):
    return load_file(out / "export" / "model.safetensors")


@pytest.fixture(scope="module")
def plain(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    train(request_for(job, out, "kd", epochs=1))
    return student(out)


@pytest.mark.parametrize("name", ["bkl", "dkd", "dist", "lskd", "lskd-dkd", "wsld"])
def test_it_trains_from_a_full_cache(name, job, plain, tmp_path):
    report = train(request_for(job, tmp_path / "run", name, epochs=1), keep_losses=True)
    assert len(report.losses) == 5
    assert all(map(math.isfinite, report.losses)), "test_train_state shows on one batch that they fall"
    ours = student(tmp_path / "run")
    assert ours.keys() == plain.keys()
    assert not all(torch.equal(ours[key], plain[key]) for key in plain)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("ipwd", ["kd", "label", "head"]), ("ps-kd", ["label"]), ("dkd-cifar", ["kd", "label"])],
)
def test_a_run_stopped_in_mid_epoch_goes_on_at_the_very_step(name, parts, job, plain, tmp_path):
    alone = {"cache": None, "supervised": True} if name == "ps-kd" else {}

    def request(out):
        views = ("views.policy=fashion-mnist",) if alone else ()
        return request_for(job, tmp_path / out, name, *views, **alone)

    whole = train(request("whole"), keep_losses=True)
    with stopped_after(7):
        train(request("run"))
    rest = train(request("run"), keep_losses=True)
    assert rest.losses == whole.losses[7:]
    ours, theirs = student(tmp_path / "run"), student(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in plain.items()}
    with (tmp_path / "run" / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert columns[columns.index("loss") + 1 : columns.index("val_top1")] == parts


def test_self_distillation_needs_no_cache_and_learns_from_its_past(job, tmp_path):
    views = ("views.policy=fashion-mnist",)
    settings = {"cache": None, "supervised": True, "epochs": 3}
    out = tmp_path / "run"
    report = train(request_for(job, out, "ps-kd", *views, **settings), keep_losses=True)
    alone = train(request_for(job, tmp_path / "b", "ps-kd", *views, "objective.alpha=0", **settings), keep_losses=True)
    assert report.losses[:5] == alone.losses[:5], "nothing is past in the first epoch"
    assert report.losses[5] != alone.losses[5]
    assert sorted(path.name for path in (out / "past").iterdir()) == ["round-00000001.f16", "round-00000002.f16"]
    (out / "past" / "of the user's own").touch()
    train(dataclasses.replace(request_for(job, out, "ps-kd", *views, **settings), fresh=True, epochs=1))
    assert {path.name for path in (out / "past").iterdir()} == {"round-00000000.f16", "of the user's own"}


def test_an_early_stopped_distillation_goes_on_with_labels(job, tmp_path):
    stopped = train(request_for(job, tmp_path / "a", "kd", "objective.kd_stop_epoch=1", epochs=2), keep_losses=True)
    usual = train(request_for(job, tmp_path / "b", "kd", epochs=2), keep_losses=True)
    assert stopped.losses[:5] == usual.losses[:5]
    with (tmp_path / "a" / "metrics.csv").open() as file:
        second = list(csv.DictReader(file))[1]
    weight = read_config(tmp_path / "a" / "config.yaml").objective.label_weight
    assert float(second["loss"]) == pytest.approx(weight * float(second["label"]))
    assert float(second["kd"]) > 0


@pytest.mark.parametrize(("stop", "never"), [(1, False), (2, True), (7, True)])
def test_a_stop_behind_the_end_is_said_to_be_none(stop, never, job, tmp_path):
    heard = Heard()
    train(request_for(job, tmp_path / "run", "kd", epochs=2, kd_stop_epoch=stop), heard)
    said = [line for line in heard.said if "objective.kd_stop_epoch" in line]
    assert bool(said) == never
    assert not never or f"objective.kd_stop_epoch is {stop}" in said[0]


def test_a_cut_cache_is_refused_unless_it_shall_be_taken_for_whole(job, tmp_path):
    cache = str(tmp_path / "topk")
    dump(dump_request(job.data, cache, job.weights, job.policy, targets="topk", views=1))
    for name in ("dkd", "dist", "lskd", "wsld", "ipwd"):
        with pytest.raises(UsageError, match=r"objective\.\w+=.*--targets full"):
            train(request_for(job, tmp_path / name, name, cache=cache))
        assert not (tmp_path / name).exists()
    for name, more in (("bkl", ()), ("wsld", ("objective.approximate=true",)), ("dist", DIST_OF_ROWS)):
        report = train(request_for(job, tmp_path / name, name, *more, cache=cache, epochs=1), keep_losses=True)
        assert len(report.losses) == 5
        assert all(map(math.isfinite, report.losses))


DIST_OF_ROWS = ("objective.gamma=0", "objective.approximate=true")


def test_what_an_objective_lacks_is_refused_before_anything_is_written(job, tmp_path):
    with pytest.raises(ConfigError, match=r"objective\.name.*--supervised"):
        train(request_for(job, tmp_path / "run", "dkd", cache=None, supervised=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", ["the cache", "a live teacher"])
def test_self_distillation_beside_a_teacher_is_refused(source, job, tmp_path):
    live = {"online_teacher": "test_resnet", "teacher_weights": job.weights} if source == "a live teacher" else {}
    with pytest.raises(UsageError, match="ps-kd learns without a teacher: add --supervised"):
        train(request_for(job, tmp_path / "run", "ps-kd", **live))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "value"), [("kd_stop_epoch", 2), ("bce_sum", True), ("bce_target_thresh", 0.5)])
def test_an_option_that_self_distillation_does_not_have_is_refused_by_its_name(option, value, job, tmp_path):
    choice = {"supervised": True, "cache": None, option: value}
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} has no meaning for ps-kd: leave it out"):
        train(request_for(job, tmp_path / "run", "ps-kd", **choice))


def test_a_student_without_one_linear_classifier_cannot_have_a_second_head(job, tmp_path):
    request = dataclasses.replace(request_for(job, tmp_path / "run", "ipwd"), student="deit_tiny_distilled_patch16_224")
    with pytest.raises(ModelError, match="another model"):
        train(request)
    assert not (tmp_path / "run").exists()
