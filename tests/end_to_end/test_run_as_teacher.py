"""A run, and any epoch that it kept, can be the teacher of another."""

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdcache.cache.store import Cache
from kdcache.dumping.dump import dump
from kdcache.errors import IdentityError, ModelError, UsageError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.training.train import train
from support.small_job import MODEL, Heard, dump_request, train_request


@pytest.fixture(scope="module")
def run(job, tmp_path_factory) -> Path:
    """A teacher of five epochs that keeps every second, with an average, and of the others the last."""
    out = tmp_path_factory.mktemp("teacher") / "big"
    overrides = ("keep_epochs=2", "keep_checkpoints=1", "checkpoint_epochs=5", "ema_decay=0.9")
    train(train_request(job.data, out, supervised=True, epochs=5, overrides=overrides))
    return out


def stored(cache: Path) -> dict[str, str]:
    opened = Cache.open(str(cache))
    return {name: opened.teacher(name).weights for name in opened.names()}


def request_of(job, cache: Path, teacher: str, weights: Path | None = None, **choice: object):
    request = dump_request(job.data, cache, weights, job.policy, views=1, **choice)
    return dataclasses.replace(request, teacher=teacher)


def test_every_nth_epoch_stays_beside_the_latest(run: Path) -> None:
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*")) == [
        "step-00000010",
        "step-00000020",
        "step-00000025",
    ]


def test_runs_and_epochs_are_teachers_under_names_of_their_own(job, run: Path, tmp_path: Path) -> None:
    for teacher in (str(run), f"{run}@epoch=2", f"{run}@epoch=4"):
        heard = Heard()
        dump(request_of(job, tmp_path / "cache", teacher), heard)
        (loading,) = (line for line in heard.said if line.startswith("Loading the teacher"))
        assert str(run) in loading.rpartition(", ")[2], "whose weights they are"
    weights = stored(tmp_path / "cache")
    assert weights.keys() == {"big", "big-epoch-2", "big-epoch-4"}
    assert len(set(weights.values())) == 3
    dump(request_of(job, tmp_path / "cache", f"{run}@epoch=5", name="last"))
    assert stored(tmp_path / "cache")["last"] == weights["big"]  # the export is the average of the last epoch


def test_an_epoch_may_be_the_weights_of_a_name(job, run: Path, tmp_path: Path) -> None:
    dump(request_of(job, tmp_path / "cache", f"{run}@epoch=2"))
    dump(request_of(job, tmp_path / "cache", MODEL, weights=Path(f"{run}@epoch=2")))
    weights = stored(tmp_path / "cache")
    assert weights[MODEL] == weights["big-epoch-2"]
    with pytest.raises(UsageError, match="weights of its own"):
        dump(request_of(job, tmp_path / "cache", str(run), weights=Path(f"{run}@epoch=2")))


def test_a_live_teacher_from_a_run_finds_its_entry_and_teaches_the_same(job, run: Path, tmp_path: Path) -> None:
    teacher = f"{run}@epoch=2"
    dump(request_of(job, tmp_path / "cache", teacher))
    choice = {"cache": str(tmp_path / "cache"), "epochs": 1}
    heard = Heard()
    cached = train(train_request(job.data, tmp_path / "cached", **choice), keep_losses=True)
    live = train(train_request(job.data, tmp_path / "live", online_teacher=teacher, **choice), heard, keep_losses=True)
    assert any("as big-epoch-2 did in the cache" in line for line in heard.said)
    assert cached.losses == live.losses
    with pytest.raises(IdentityError, match="weights"):
        train(train_request(job.data, tmp_path / "other", online_teacher=str(run), **choice))


def test_an_epoch_that_is_not_there_is_refused_before_anything_is_written(job, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it has those of 2, 4, 5"):
        dump(request_of(job, tmp_path / "cache", f"{run}@epoch=3"))
    assert not (tmp_path / "cache").exists()


def test_an_epoch_is_scored_as_it_was_when_it_ended(job, run: Path) -> None:
    early, late = (evaluate(EvaluateOptions(f"{run}@epoch={epoch}", job.data, device="cpu")) for epoch in (2, 5))
    assert late.loss == evaluate(EvaluateOptions(str(run), job.data, device="cpu")).loss
    assert early.loss != late.loss


def test_the_size_of_a_teacher_can_be_chosen(job, tmp_path: Path) -> None:
    dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=1, size=40))
    assert Cache.open(str(tmp_path / "cache")).teacher(MODEL).size == 40
    with pytest.raises(IdentityError, match="size"):
        dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=1))


def test_distillation_ends_with_the_epoch_that_is_asked_for(job, tmp_path: Path) -> None:
    choice = {"cache": str(job.cache), "epochs": 2}
    out = tmp_path / "until-1"
    train(train_request(job.data, out, kd_stop_epoch=1, **choice))
    config = (out / "config.yaml").read_text()
    assert "kd_stop_epoch: 1" in config
    whole = tmp_path / "whole"
    train(train_request(job.data, whole, **choice))
    one, other = (load_file(folder / "export" / "model.safetensors") for folder in (out, whole))
    assert any((one[name] != other[name]).any() for name in one)


def test_settings_of_the_binary_cross_entropy_reach_the_objective(job, tmp_path: Path) -> None:
    choice = {"cache": str(job.cache), "epochs": 1, "bce_sum": True, "bce_target_thresh": 0.2}
    with pytest.raises(UsageError, match=r"--bce-sum .*label_loss=bce"):
        train(train_request(job.data, tmp_path / "run", **choice))
    train(train_request(job.data, tmp_path / "run", overrides=("objective.label_loss=bce",), **choice))
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "bce_sum: true" in config
    assert "bce_target_thresh: 0.2" in config


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ({"kd_stop_epoch": 3}, "objective.kd_stop_epoch=2"),
        ({"bce_sum": True}, "objective.bce_sum=false"),
        ({"bce_target_thresh": 0.3}, "objective.bce_target_thresh=0.2"),
    ],
)
def test_an_option_and_a_setting_of_one_thing_are_refused(job, tmp_path: Path, option, setting: str) -> None:
    overrides = ("objective.label_loss=bce", setting)
    with pytest.raises(UsageError, match="given twice"):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache), overrides=overrides, **option))


def test_a_training_says_its_scores_and_a_warm_up_that_takes_much_of_it(job, tmp_path: Path) -> None:
    heard = Heard()
    overrides = ("schedule.warmup_epochs=1",)
    train(train_request(job.data, tmp_path / "a", supervised=True, epochs=2, val=job.data, overrides=overrides), heard)
    assert [line.partition(":")[0] for line in heard.said if line.startswith("Epoch ")] == ["Epoch 1", "Epoch 2"]
    assert any("grows for 1 of the 2 epochs" in line for line in heard.said)
    heard = Heard()
    train(train_request(job.data, tmp_path / "b", supervised=True, epochs=3, overrides=overrides), heard)
    assert not any("grows for" in line for line in heard.said)
    assert json.loads((tmp_path / "b" / "run_identity.json").read_text())["teacher"] is None
