"""Several processes under torchrun train the student that one process trains, and go on where they were killed."""

import csv
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcache.errors import UsageError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.training.checkpoint import Checkpoints
from kdcache.training.train import train
from support.forked import run_ranks, started_ranks
from support.small_job import MODEL, train_request

EPOCHS = 3


def torchrun(arguments):
    """The arguments of a job of two processes under the real launcher."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [sys.executable, *launcher, "-m", "kdcache_cli", *arguments]


def command(job, out, *options):
    return [
        "train",
        # A student without batch norm: its statistics are each process's own.
        "--student", "test_vit", "--data", job.data, "--cache", str(job.cache), "--val", job.data, "--out", str(out),
        "--recipe", "fashion-mnist", "--epochs", str(EPOCHS), "--device", "cpu", "--renderer", "pillow",
        "--set", "student.size=32", "--set", "batch_size=24", "--set", "optimizer.lr=0.001",
        "--set", "schedule.warmup_epochs=0", *options,
    ]  # fmt: skip


def run(arguments, world_size):
    """What rank 0 of a job has printed; its processes are forked, as the launcher is tested elsewhere."""
    ranks = run_ranks(arguments, world_size)
    assert not any(rank.returncode for rank in ranks), "\n".join(rank.stderr for rank in ranks)
    assert not "".join(rank.stdout for rank in ranks[1:]), "rank 0 alone reports"
    return ranks[0]


def student(out):
    return load_file(out / "export" / "model.safetensors")


def metrics(out):
    return [
        {name: float(text or "nan") for name, text in row.items()}
        for row in csv.DictReader((out / "metrics.csv").open())
    ]


def live(job):
    """The teacher beside the student: it has features, and feature maps of as many stages as the student."""
    return ("--online-teacher", MODEL, "--teacher-weights", str(job.weights))


# A relation of all rows with what is learnt on each process's own, a memory of samples, and a student that gives maps.
BEYOND_LOGITS = {"cc": (), "crd": ("--set", "objective.negatives=50"), "at": ()}


@pytest.mark.parametrize("objective", ["kd", "ipwd", "ps-kd", *BEYOND_LOGITS])
def test_two_processes_train_the_student_of_one(objective, job, tmp_path):
    options = ("--set", f"objective.name={objective}")
    if objective in BEYOND_LOGITS:
        options += (*BEYOND_LOGITS[objective], *live(job))
    # SGD's steps are proportional to the gradient, and so are their differences to those of its last bits. Adam divides
    # by the gradient's size: where that is nearly zero, the last bits alone decide on the direction of a whole step.
    # Two epochs, as ps-kd learns from the predictions of the one before.
    options += ("--set", "optimizer.name=sgd", "--set", "optimizer.lr=0.01", "--epochs", "2")
    if objective == "ps-kd":
        options += ("--supervised",)
    run(command(job, tmp_path / "one", *options), 1)
    # Gradients of a batch in parts are averaged once, with those of the last part.
    parts = ("--set", "accumulation=3") if objective in ("kd", "ipwd") else ()
    done = run(command(job, tmp_path / "two", *options, *parts), 2)
    assert "on 2 processes" in done.stderr
    assert done.stdout.count("The student for timm") == 1
    one, two = student(tmp_path / "one"), student(tmp_path / "two")
    # Measured: at most 1.5e-7 apart, where training has moved the weights by 4.6e-3 (kd) to 0.7 (at).
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in one)
    for ours, theirs in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), "of all processes, not of the first"
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-5)


@pytest.mark.parametrize(("average", "bn"), [("null", "broadcast"), ("0.9", "broadcast"), ("0.9", "reduce")])
def test_what_is_scored_is_what_is_kept(average, bn, job, tmp_path):
    """Each process has running statistics of its own, which are not those of the student that is exported."""
    options = ("--student", "test_resnet", "--epochs", "1", "--set", f"ema_decay={average}", "--set", f"dist_bn={bn}")
    run([*command(job, tmp_path / "run"), *options], 2)
    kept = evaluate(EvaluateOptions(str(tmp_path / "run"), job.data, device="cpu"))
    assert metrics(tmp_path / "run")[-1]["val_loss"] == pytest.approx(kept.loss, rel=1e-5)


def test_vanilla_distillation_alone_trains_the_classifier_of_two_processes(job, tmp_path):
    """Without it DDP waits for gradients that never come."""
    options = [f"objective.{setting}" for setting in ("name=at", "label_loss=none", "vanilla_weight=1")]
    options = [part for setting in options for part in ("--set", setting)]
    done = run([*command(job, tmp_path / "run", *options, *live(job)), "--epochs", "1"], 2)
    assert "on 2 processes" in done.stderr


def workers_of(launcher):
    """The processes that torchrun has started, by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(value[5:]): child for value in variables if value.startswith(b"RANK=")}
    return ranks


def kill_launched(launcher):
    """Kill torchrun and its ranks, and return when they are gone: each rank has a process group of its own."""
    ranks = [os.pidfd_open(pid) for pid in workers_of(launcher).values()] if launcher.poll() is None else []
    for rank in ranks:
        signal.pidfd_send_signal(rank, signal.SIGKILL)
    launcher.kill()
    launcher.wait()
    for rank in ranks:
        assert select.select([rank], [], [], 60)[0], "a killed process has not ended"
        os.close(rank)


def test_a_killed_team_ends_with_the_same_student(job, tmp_path):
    options = ("--set", "student.drop_path=0.3")  # each process's random state matters
    run(command(job, tmp_path / "whole", *options), 2)
    checkpoints = tmp_path / "killed" / "checkpoints"
    with started_ranks(command(job, tmp_path / "killed", *options), 2) as ranks:
        ranks[0].wait_for(lambda: bool(list(checkpoints.glob("step-*/manifest.json"))))
        for rank in ranks:
            rank.send(signal.SIGKILL)
        assert [rank.ended().returncode for rank in ranks] == [-signal.SIGKILL] * 2
    assert not (tmp_path / "killed" / "export").exists(), "it was killed too late for this test"
    run(command(job, tmp_path / "killed", *options), 2)
    whole, killed = student(tmp_path / "whole"), student(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def endless(job, out):
    return command(job, out, "--supervised", "--set", "views.policy=fashion-mnist", "--epochs", "100000")


def require_saved_together(out, said):
    """Both processes have stopped at the one step that is saved."""
    assert re.search(r"Saved after step \d+ of", said)
    (step,) = Checkpoints(out / "checkpoints").steps()
    assert f"Saved after step {step:,} of" in said
    assert len(Checkpoints(out / "checkpoints").load(step).trainer["random"]) == 2


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_team_of_which_a_signal_reaches_one_stops_at_one_step(number, job, tmp_path):
    """Whoever gets the signal, all processes save together and exit as it says."""
    with started_ranks(endless(job, tmp_path / "run"), 2) as ranks:
        ranks[0].wait_for(lambda: "Train test_vit" in ranks[0].err.read_text())
        ranks[1].send(number)
        ended = [rank.ended(120) for rank in ranks]
    said = "".join(rank.stderr for rank in ended)
    assert [rank.returncode for rank in ended] == [128 + number] * 2, said
    assert said.count(f"stopped by {number.name}; run the same command again to go on") == 2, said
    require_saved_together(tmp_path / "run", said)


def test_a_team_that_is_told_by_torchrun_stops_at_one_step(job, tmp_path):
    """The real launcher, with processes that it starts itself."""
    log = (tmp_path / "log").open("w+")
    arguments = torchrun(endless(job, tmp_path / "run"))
    launched = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while "Train test_vit" not in (tmp_path / "log").read_text():
            assert launched.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        launched.terminate()
        assert launched.wait(120) == 1, "torchrun's own exit code"
    finally:
        kill_launched(launched)
    said = (tmp_path / "log").read_text()
    assert said.count("stopped by SIGTERM; run the same command again to go on") == 2, said
    require_saved_together(tmp_path / "run", said)


def test_a_batch_that_cannot_be_shared_in_pairs_is_refused(job, tmp_path):
    for done in run_ranks(command(job, tmp_path / "run", "--set", "batch_size=26"), 2):
        assert done.returncode == 2
        assert "multiple of 4" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_contradicts_itself_is_refused(job, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UsageError, match="torchrun"):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache)))
