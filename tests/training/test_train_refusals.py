"""What makes no sense, or does not belong together, is refused before the first step, by name."""

import dataclasses
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, DeviceError, IdentityError, ModelError, RunError, UsageError
from kdcache.training.options import TrainOptions
from kdcache.training.train import train
from support.small_job import (
    CLASSES,
    MODEL,
    Heard,
    dump_request,
    make_data,
    make_teacher,
    train_request,
)

REFUSALS = {
    "more views than there are": ({"overrides": ("views.count=11",)}, UsageError, "11 views.* 10 are complete"),
    "no such cache": ({"cache": "nowhere"}, UsageError, "no cache at nowhere.*dump-logits"),
    "two sources": ({"supervised": True, "online_teacher": MODEL}, UsageError, "--supervised.*--online-teacher"),
    "weights without a live teacher": ({"teacher_weights": Path("x")}, UsageError, "--teacher-weights"),
    "an unknown entry": ({"teacher": "somebody"}, UsageError, f"'somebody'; it holds {MODEL}"),
    "a setting given twice": ({"overrides": ("schedule.epochs=2",)}, UsageError, "given twice"),
    "a misspelt setting": ({"overrides": ("objective.temperatur=2",)}, ConfigError, "objective.temperature"),
    "a policy that the cache does not have": (
        {"overrides": ("views.policy=crop",)},
        ConfigError,
        r"views\.policy.*cache",
    ),
    "a weight for no teacher": (
        {"supervised": True, "overrides": ("objective.kd_weight=0.5",)},
        ConfigError,
        "kd_weight.*--supervised",
    ),
    "half precision that a CPU has not": ({"overrides": ("precision=fp16",)}, DeviceError, "fp16"),
    "an unknown student": ({"student": "test_resnett"}, ModelError, "test_resnet"),
    "an unknown renderer": ({"renderer": "opencv"}, UsageError, "pillow"),
    "an unknown recipe": ({"recipe": "fashion-minst"}, ConfigError, "fashion-mnist"),
    "an odd batch": ({"batch_size": 13}, ConfigError, "even"),
    "a batch larger than the data": ({"batch_size": 200}, UsageError, "smaller --batch-size"),
    "nothing to learn from": (
        {"supervised": True, "overrides": ("objective.label_loss=none",)},
        ConfigError,
        "label_loss",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_makes_no_sense_is_refused_before_the_first_step(job, tmp_path, name):
    choice, error, message = REFUSALS[name]
    if choice.get("batch_size"):
        choice = choice | {"overrides": ()}
    student = choice.get("student", MODEL)
    choice = {key: value for key, value in choice.items() if key != "student"}
    request = train_request(job.data, tmp_path / "run", **({"cache": str(job.cache), "epochs": 1} | choice))
    request = dataclasses.replace(request, student=student)
    if choice.get("batch_size"):
        kept = tuple(item for item in request.overrides if not item.startswith("batch_size"))
        request = dataclasses.replace(request, overrides=kept)
    with pytest.raises(error, match=message):
        train(request)
    assert not (tmp_path / "run").exists()


def test_a_cache_of_another_data_set_is_refused_by_name(job, tmp_path):
    other = make_data(tmp_path / "other", seed=1)
    with pytest.raises(IdentityError, match="fingerprint") as refused:
        train(train_request(other, tmp_path / "run", cache=str(job.cache)))
    assert refused.value.field == "fingerprint"


def test_a_live_teacher_with_other_weights_than_the_caches_is_refused(job, tmp_path):
    other = make_teacher(tmp_path / "other", seed=8)
    with pytest.raises(IdentityError, match="weights"):
        train(
            train_request(job.data, tmp_path / "run", cache=str(job.cache), online_teacher=MODEL, teacher_weights=other)
        )


def test_another_batch_size_is_named_with_the_rate_that_follows_from_it(job, tmp_path):
    def request(batch: int, *more: str) -> TrainOptions:
        overrides = ("schedule.warmup_epochs=0", "student.size=32", f"batch_size={batch}", *more)
        asked = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=1)
        return dataclasses.replace(asked, overrides=overrides)

    train(request(26))
    with pytest.raises(
        RunError, match=r"another batch_size \(26, now 24\), another optimizer\.lr \(0\.\d+, now 0\.\d+\)"
    ):
        train(request(24))
    with pytest.raises(RunError, match=r"another clip_grad \(.*\): use the same settings"):
        train(request(26, "clip_grad=1.5"))
    many = ("clip_grad=1.5", "ema_decay=0.9", "optimizer.momentum=0.5")
    with pytest.raises(RunError, match=r"another batch_size .* and 2 more: use") as refused:
        train(request(24, *many))
    assert "optimizer.lr" not in str(refused.value)


def test_files_that_are_no_run_are_never_replaced(job, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "config.yaml").write_text("mine: true")
    for fresh in (False, True):
        with pytest.raises(RunError, match="no run"):
            train(train_request(job.data, tmp_path, cache=str(job.cache), fresh=fresh))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "config.yaml").read_text() == "mine: true"


def test_a_temperature_needs_full_targets(job, tmp_path):
    dump(dump_request(job.data, tmp_path / "topk", job.weights, job.policy, targets="topk", views=1))
    warm = ("objective.temperature=2",)
    with pytest.raises(UsageError, match="--targets full"):
        train(train_request(job.data, tmp_path / "a", cache=str(tmp_path / "topk"), overrides=warm))
    report = train(train_request(job.data, tmp_path / "b", cache=str(job.cache), epochs=1, overrides=warm))
    assert report.steps == 5


def test_what_the_run_folder_refuses_is_refused_before_anything_is_announced(job, tmp_path, monkeypatch):
    """And before a live teacher is loaded."""
    live = {"online_teacher": MODEL, "teacher_weights": job.weights, "cache": str(job.cache)}
    train(train_request(job.data, tmp_path / "live", epochs=1, **live))
    train(train_request(job.data, tmp_path / "cached", epochs=1, cache=str(job.cache)))
    dump(dump_request(job.data, tmp_path / "other", make_teacher(tmp_path / "t", seed=8), job.policy, views=10))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("years of work")
    monkeypatch.setattr("kdcache.training.setup.open_live_teacher", lambda *_, **__: pytest.fail("loaded"))
    for out, message, choice in (
        ("live", r"schedule\.epochs \(1, now 20\)", live),
        ("cached", r"schedule\.epochs \(1, now 20\)", {"cache": str(job.cache)}),
        ("cached", r"another teacher\.weights", {"cache": str(tmp_path / "other"), "epochs": 1}),
        ("foreign", "thesis", live),
    ):
        heard = Heard()
        with pytest.raises(RunError, match=message):
            train(train_request(job.data, tmp_path / out, **choice), heard)
        assert not heard.said


@pytest.mark.parametrize("name", ["at", "rkd"])
def test_targets_that_do_not_serve_are_refused_before_the_data_is_opened(job, tmp_path, name):
    heard = Heard()
    overrides = (f"objective.name={name}",)
    with pytest.raises(UsageError, match="The objective needs the teacher's feature"):
        train(train_request("nowhere", tmp_path / "run", cache=str(job.cache), overrides=overrides), heard)
    assert not heard.said


def test_a_batch_that_cannot_be_divided_is_refused_before_the_data_is_opened(tmp_path):
    from kdcache.runtime.distributed import Distributed
    from kdcache.runtime.ranks import Ranks
    from kdcache.training.setup import prepare

    processes = Distributed(Ranks(0, 2), torch.device("cpu"))
    with pytest.raises(UsageError, match="multiple of 4"):
        prepare(train_request("nowhere", tmp_path / "run", supervised=True), processes, Heard(), ExitStack())


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_no_gpu_where_one_is_asked_for(job, tmp_path):
    with pytest.raises(DeviceError, match="--device cpu"):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache), device="cuda"))


def test_a_validation_set_of_other_classes_is_refused(job, tmp_path):
    other = tmp_path / "val"
    shutil.copytree(job.data, other)
    (other / "classes.json").write_text(json.dumps([f"other {number}" for number in range(CLASSES)]))
    with pytest.raises(IdentityError, match=r"classes\.json"):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=1, val=str(other)))


def test_a_run_of_more_views_than_the_cache_has_says_how_to_begin_another(job, tmp_path):
    out = tmp_path / "run"
    train(train_request(job.data, out, cache=str(job.cache), epochs=1))
    dump(dump_request(job.data, tmp_path / "fewer", job.weights, job.policy, views=1))
    with pytest.raises(UsageError, match=r"run in this folder learns from 10 views.*--fresh.*--out"):
        train(train_request(job.data, out, cache=str(tmp_path / "fewer"), epochs=1))
