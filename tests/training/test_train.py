"""`train`: refuses what does not belong together, resumes at the very step, and writes what timm loads."""

import csv
import dataclasses
import json
import os
import signal
import statistics
import threading
from contextlib import nullcontext

import pytest
import timm
import torch
from safetensors.torch import load_file

from kdcache.data.index import open_index
from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, ModelError, RunError, UsageError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.runtime.distributed import Distributed
from kdcache.training.config import read_config
from kdcache.training.prediction_history import PredictionHistory
from kdcache.training.train import train
from kdcache.views.viewset import ViewSet
from support.forked import run_command, started_command
from support.small_job import (
    CLASSES,
    MIXING_POLICY,
    MODEL,
    SETTINGS,
    Heard,
    dump_request,
    make_teacher,
    stopped_after,
    train_request,
    tree_bytes,
)


@pytest.fixture(scope="module")
def trained(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    report = train(train_request(job.data, out, cache=str(job.cache), epochs=3, val=job.data), keep_losses=True)
    return out, report


def weights_of(run):
    return load_file(run / "export" / "model.safetensors")


def test_a_run_folder_holds_config_metrics_checkpoints_and_export(trained):
    out, report = trained
    assert report.folder == out
    assert (report.epochs, report.steps) == (3, 15)
    config = read_config(out / "config.yaml")
    assert config.schedule.epochs == 3
    assert config.views.policy == json.loads(MIXING_POLICY)
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["val_top1"]) == report.evaluation.top1
    assert float(rows[0]["loss"]) == pytest.approx(sum(report.losses[:5]) / 5)
    assert sorted(path.name for path in (out / "checkpoints").glob("step-*"))[-1] == "step-00000015"
    assert list((out / "events").iterdir())


def test_timm_loads_the_export_both_ways(trained):
    out, _ = trained
    by_name = timm.create_model(MODEL, num_classes=CLASSES, checkpoint_path=str(out / "export" / "model.safetensors"))
    by_folder = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(by_name.eval()(pixels), by_folder.eval()(pixels))
    assert tuple(by_folder.pretrained_cfg["input_size"]) == (3, 32, 32)


def test_evaluating_the_run_gives_the_score_of_its_report(job, trained):
    out, report = trained
    score = evaluate(EvaluateOptions(str(out), job.data, device="cpu"))
    assert (score.top1, score.top5) == (report.evaluation.top1, report.evaluation.top5)
    assert score.loss == pytest.approx(report.evaluation.loss, rel=1e-5)


def test_the_same_command_again_has_nothing_to_do(job, trained):
    out, report = trained
    before = weights_of(out)
    again = train(train_request(job.data, out, cache=str(job.cache), epochs=3, val=job.data))
    assert again.steps == report.steps
    assert again.images_per_s is None
    after = weights_of(out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_stopped_in_mid_epoch_goes_on_at_the_very_step(job, trained, tmp_path):
    """SIGTERM between two steps saves; the rest of the run is that of an uninterrupted one, bit for bit."""
    out, whole = trained
    request = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=3, val=job.data)
    with stopped_after(7):
        train(request)
    rest = train(request, keep_losses=True)
    assert rest.losses == whole.losses[7:]
    ours, theirs = weights_of(tmp_path / "run"), weights_of(out)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[row["loss"] for row in csv.DictReader((run / "metrics.csv").open())] for run in (tmp_path / "run", out)]
    assert losses[0] == losses[1]


def test_every_order_is_computed_beside_the_training_the_first_one_included(job, tmp_path, monkeypatch):
    computed = []

    def noted(self, group, pause):
        computed.append((group, threading.current_thread().name))
        return compute_order(self, group, pause)

    compute_order = ViewSet._compute_order
    monkeypatch.setattr(ViewSet, "_compute_order", noted)
    request = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=3)
    with stopped_after(7):
        train(request)
    first, computed[:] = computed[:], []
    train(request)
    assert [group for group, _ in first][:2] == [0, 1]
    assert [group for group, _ in computed] == [1, 2]
    assert {thread for _, thread in first + computed} == {"kdcache-order"}


def test_a_killed_training_ends_with_the_same_student(job, trained, tmp_path):
    out, _ = trained
    run = tmp_path / "run"
    arguments = [
        "train", "--student", MODEL, "--data", job.data, "--val", job.data, "--cache", str(job.cache),
        "--recipe", "fashion-mnist", "--epochs", "3", "--out", str(run), "--device", "cpu",
        *(part for setting in SETTINGS for part in ("--set", setting)),
    ]  # fmt: skip
    with started_command(arguments) as running:
        running.wait_for(lambda: bool(list((run / "checkpoints").glob("step-*"))))
        running.send(signal.SIGKILL)
        assert running.ended(60).returncode == -signal.SIGKILL, "the run ended before it could be killed"
    done = run_command(arguments, None, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "Going on from step" in done.stderr
    ours, theirs = weights_of(run), weights_of(out)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_views_and_start_weights_are_the_seeds_alone(job, tmp_path):
    def losses(name, **choice):
        settings = {"cache": str(job.cache), "epochs": 1} | choice
        return train(train_request(job.data, tmp_path / name, **settings), keep_losses=True).losses

    assert losses("a") == losses("b")
    assert losses("a2", seed=1) != losses("a3")


def test_supervised_training_needs_no_cache_and_sees_the_views_of_its_recipe(job, tmp_path):
    request = train_request(
        job.data, tmp_path / "run", supervised=True, epochs=12, overrides=("views.policy=fashion-mnist",)
    )
    report = train(request, keep_losses=True)
    assert len(report.losses) == 60
    # An epoch's five steps see 130 of the 131 images, so that the means are over the same rows but for one.
    assert statistics.fmean(report.losses[-5:]) < statistics.fmean(report.losses[:5])
    config = read_config(tmp_path / "run" / "config.yaml")
    assert config.objective.kd_weight == 0
    assert config.objective.label_weight == 1


def test_topk_targets_teach_too(job, tmp_path):
    dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, targets="topk"))
    report = train(train_request(job.data, tmp_path / "run", cache=str(tmp_path / "cache"), epochs=2), keep_losses=True)
    assert len(report.losses) == 10
    full = train(train_request(job.data, tmp_path / "full", cache=str(job.cache), epochs=2), keep_losses=True)
    # Of the first step, where both students have the same weights: only the targets' encodings differ.
    assert report.losses[0] == pytest.approx(full.losses[0], rel=0.02)
    assert report.losses != full.losses


def test_targets_without_a_label_space_distil_without_labels(job, tmp_path):
    weights = make_teacher(tmp_path / "teacher", classes=7)
    cache = str(tmp_path / "cache")
    dump(dump_request(job.data, cache, weights, job.policy, label_space="none"))
    with pytest.raises(UsageError, match=r"not the labels' \(label space none\): set objective\.label_loss=none"):
        train(train_request(job.data, tmp_path / "run", cache=cache))
    live = {"cache": None, "online_teacher": MODEL, "teacher_weights": weights, "overrides": ("views.policy=crop",)}
    with pytest.raises(UsageError, match="live teacher has 7 classes where the data has 4: set"):
        train(train_request(job.data, tmp_path / "run", **live))
    no_labels = ("objective.label_loss=none",)
    with pytest.raises(UsageError, match="--val asks for accuracy"):
        train(train_request(job.data, tmp_path / "run", cache=cache, overrides=no_labels, val=job.data))
    report = train(train_request(job.data, tmp_path / "run", cache=cache, epochs=2, overrides=no_labels))
    assert "label_names" not in (tmp_path / "run" / "export" / "config.json").read_text()
    assert report.steps == 10
    assert weights_of(tmp_path / "run")["fc.weight"].shape[0] == 7


def test_pictures_without_a_label_are_counted(job, tmp_path, monkeypatch):
    index = open_index(job.data)
    label = index.label.copy()
    label[:3] = -1
    monkeypatch.setattr("kdcache.training.setup.open_index", lambda *_, **__: dataclasses.replace(index, label=label))
    choice = {"supervised": True, "overrides": ("views.policy=fashion-mnist",)}
    with pytest.raises(UsageError, match=rf"and 3 of {len(index)} images have none"):
        train(train_request(job.data, tmp_path / "run", **choice))
    assert not (tmp_path / "run").exists()


def test_another_run_in_the_folder_is_refused_and_kept(job, trained):
    out, _ = trained
    before = tree_bytes(out)
    with pytest.raises(RunError, match=r"optimizer.lr.*--fresh"):
        train(
            train_request(job.data, out, cache=str(job.cache), epochs=3, val=job.data, overrides=("optimizer.lr=0.5",))
        )
    assert tree_bytes(out) == before


def test_fresh_replaces_a_run(job, tmp_path):
    def request(**choice):
        return train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=1, **choice)

    train(request())
    report = train(request(seed=3, fresh=True), keep_losses=True)
    assert len(report.losses) == 5


def test_fresh_leaves_what_others_put_into_the_run_folder(job, tmp_path):
    request = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=1)
    train(request)
    (tmp_path / "run" / "notes.txt").write_text("years of work")
    assert train(dataclasses.replace(request, fresh=True), keep_losses=True).losses
    assert (tmp_path / "run" / "notes.txt").read_text() == "years of work"


def test_an_average_and_drop_path_resume_at_the_very_step(job, tmp_path):
    extra = ("ema_decay=0.9", "student.drop_path=0.2", "clip_grad=1.0", "optimizer.name=sgd")
    whole = train(
        train_request(job.data, tmp_path / "whole", cache=str(job.cache), epochs=2, overrides=extra), keep_losses=True
    )
    request = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=2, overrides=extra)
    with stopped_after(6):
        train(request)
    assert train(request, keep_losses=True).losses == whole.losses[6:]
    ours, theirs = weights_of(tmp_path / "run"), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    last = max((tmp_path / "whole" / "checkpoints").glob("step-*"))
    plain = load_file(last / "model.safetensors")
    assert not torch.equal(plain["fc.weight"], theirs["fc.weight"]), "the export is the average"


def test_a_live_teacher_takes_the_settings_of_its_entry_whatever_that_is_called(job, tmp_path):
    cache = tmp_path / "cache"
    dump(dump_request(job.data, cache, job.weights, job.policy, views=1, name="big", batch_size=8))
    settings = {"cache": str(cache), "online_teacher": MODEL, "teacher_weights": job.weights, "epochs": 1}
    heard = Heard()
    train(train_request(job.data, tmp_path / "run", **settings), heard)
    assert any("batches of 8, as big did" in line for line in heard.said)
    named = train(train_request(job.data, tmp_path / "named", teacher="big", **settings))
    assert named.steps == 5


def test_a_student_fed_by_another_renderer_than_the_teacher_is_warned(job, tmp_path):
    heard = Heard()
    train(train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=1, renderer="pillow"), heard)
    assert any("renderer" in line and "pillow" in line for line in heard.warned)


def test_views_policy_recipe_and_epochs_are_said(job, tmp_path):
    heard = Heard()
    train(train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=1), heard)
    said = " ".join(heard.said)
    assert "mixup 0.2, cutmix 1.0" in said
    assert "Recipe fashion-mnist: 1 epoch of 5 steps" in said
    assert "The label loss is cross-entropy of weight 0.1, as recipe fashion-mnist has it." in said


def test_losses_and_speed_are_said_to_be_what_they_are(job, tmp_path):
    shown = []

    class Shown:
        def advance(self, count=1, **values):
            shown.append(values)

    heard = Heard()
    heard.task = lambda *_, **__: nullcontext(Shown())
    request = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=2)
    report = train(request, heard, keep_losses=True)
    last = sum(report.losses[5:]) / 5
    assert [values.get("loss_this_epoch") for values in shown][9] == pytest.approx(last), "the bar ends with it"
    line = report.lines()[0]
    assert f"2 epochs, 10 steps done; mean loss of the last epoch {last:.4f}; " in line
    assert line.endswith(" images/s while training.")


def test_who_reads_the_run_folder_asks_first_whether_all_see_it(job, tmp_path, monkeypatch):
    asked, made = [], []
    monkeypatch.setattr("kdcache.training.train.require_shared", lambda folder, processes: asked.append(folder.name))
    monkeypatch.setattr(
        "kdcache.training.train.PredictionHistory",
        lambda *args, **choice: (made.append(choice), PredictionHistory(*args, **choice))[1],
    )
    usual = train_request(job.data, tmp_path / "usual", cache=str(job.cache), epochs=1)
    train(usual)
    assert not asked
    train(usual)
    assert asked == ["usual"], "it goes on from a checkpoint"
    overrides = ("objective.name=ps-kd", "views.policy=fashion-mnist")
    train(train_request(job.data, tmp_path / "self", supervised=True, epochs=1, overrides=overrides))
    assert asked == ["usual", "self"]
    assert made[0]["barrier"].__func__ is Distributed.barrier, "a round is read when all have written it"


def test_a_job_sets_the_number_of_threads_itself(job, tmp_path, monkeypatch):
    """torchrun sets OMP_NUM_THREADS=1, and an output's last bits depend on the number."""
    before = torch.get_num_threads()
    try:
        for threads in ("2", "1"):
            monkeypatch.setenv("KDCACHE_THREADS", threads)
            dump(dump_request(job.data, tmp_path / f"cache{threads}", job.weights, job.policy, views=1))
            assert torch.get_num_threads() == int(threads)
        monkeypatch.setenv("KDCACHE_THREADS", "many")
        with pytest.raises(UsageError, match="KDCACHE_THREADS"):
            dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=1))
    finally:
        torch.set_num_threads(before)


def test_fewer_epochs_than_the_recipes_warm_up_are_all_warm_up(job, tmp_path):
    request = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=2)
    kept = tuple(item for item in request.overrides if "warmup" not in item)
    train(dataclasses.replace(request, overrides=kept))
    assert read_config(tmp_path / "run" / "config.yaml").schedule.warmup_epochs == 2


@pytest.mark.parametrize(
    ("setting", "error"), [("student.kwargs={no_such: 1}", ModelError), ("optimizer.name=no_such", ConfigError)]
)
def test_a_start_that_is_refused_leaves_no_run_and_destroys_none(job, trained, tmp_path, setting, error):
    out, _ = trained
    before = tree_bytes(out)
    for folder, fresh in ((tmp_path / "run", False), (out, True)):
        with pytest.raises(error):
            train(train_request(job.data, folder, cache=str(job.cache), fresh=fresh, overrides=(setting,)))
    assert not (tmp_path / "run").exists()
    assert tree_bytes(out) == before


def test_a_rate_that_was_chosen_is_the_rate_and_a_recipes_follows_the_batch(job, tmp_path):
    def rate(name, *settings):
        request = train_request(job.data, tmp_path / name, cache=str(job.cache), epochs=1)
        kept = tuple(item for item in request.overrides if "lr" not in item)
        train(dataclasses.replace(request, overrides=(*kept, *settings)))
        return read_config(tmp_path / name / "config.yaml").optimizer.lr

    assert rate("chosen", "optimizer.lr=0.004") == 0.004
    assert rate("recipe") == pytest.approx(0.01 * (26 / 128) ** 0.5)
