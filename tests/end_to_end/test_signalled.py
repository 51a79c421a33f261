"""Commands that a signal ends, as schedulers and containers do it: quickly, with nothing lost and nothing held."""

import signal

import pytest

from kdcache.cache.store import Cache
from kdcache.dumping.dump import dump
from kdcache.training.checkpoint import Checkpoints
from support.commands_to_stop import (
    READY,
    closed_terminal,
    slow_save,
    slow_teacher,
    slow_teacher_without_locks,
    stuck_evaluation,
)
from support.forked import started_command
from support.small_job import MODEL, SETTINGS, dump_request


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_a_dump_ends_in_the_midst_of_a_slow_batch_and_gives_its_claims_back(locks, job, tmp_path):
    cache = tmp_path / "cache"
    request = dump_request(job.data, cache, job.weights, job.policy, views=1, renderer="pillow")
    arguments = [
        "dump-logits", "--teacher", MODEL, "--data", job.data, "--cache", cache, "--weights", job.weights,
        "--policy", job.policy, "--views", "1", "--targets", "full", "--batch-size", "16", "--device", "cpu",
        "--renderer", "pillow",
    ]  # fmt: skip
    with started_command(arguments, before=slow_teacher if locks else slow_teacher_without_locks) as running:
        running.wait_for(lambda: running.out.exists() and running.out.read_text() == READY)
        assert list(cache.glob(".partial/claim-*")), "nothing was claimed"
        running.send(signal.SIGTERM)
        done = running.ended(60)
    err = done.stderr
    assert done.returncode == 143, err
    assert done.stdout == READY
    assert err.endswith("stopped by SIGTERM; run the same command again to go on\n")
    assert "Traceback" not in err
    assert not list(cache.glob(".partial/claim-*")), "claims were not given back"
    dump(request)
    entry = Cache.open(cache).entry(MODEL)
    assert entry.whole_views() == [0]
    for block in entry.listed(0):
        entry.check_bytes(0, block)


def test_a_training_ends_by_the_signal_of_a_scheduler_and_not_by_a_closed_terminal(job, tmp_path):
    """Started by nohup, and warned by Slurm with --signal=USR1."""
    run = tmp_path / "run"
    arguments = [
        "train", "--student", MODEL, "--data", job.data, "--cache", job.cache, "--recipe", "fashion-mnist",
        "--epochs", "10000", "--out", run, "--device", "cpu", "--renderer", "pillow",
        *(part for setting in SETTINGS for part in ("--set", setting)),
    ]  # fmt: skip
    with started_command(arguments, before=closed_terminal, ignored=[signal.SIGHUP]) as running:
        running.wait_for(lambda: running.out.exists() and running.out.read_text() == READY)
        running.send(signal.SIGUSR1)
        done = running.ended(120)
    err = done.stderr
    assert done.returncode == 138, err
    step = max(Checkpoints(run / "checkpoints").steps())
    assert step >= 2
    assert f"Saved after step {step:,} of" in err
    assert err.endswith("stopped by SIGUSR1; run the same command again to go on\n")
    assert "Traceback" not in err


@pytest.mark.parametrize("before", [stuck_evaluation, slow_save])
def test_a_training_that_a_container_stops_has_the_epoch_whatever_it_is_doing(before, job, tmp_path):
    """The evaluation is not waited for, a checkpoint that is being saved is."""
    run = tmp_path / "run"
    arguments = [
        "train", "--student", MODEL, "--data", job.data, "--cache", job.cache, "--val", job.data, "--recipe",
        "fashion-mnist", "--epochs", "2", "--out", run, "--device", "cpu", "--renderer", "pillow",
        *(part for setting in SETTINGS for part in ("--set", setting)),
    ]  # fmt: skip
    with started_command(arguments, before=before) as running:
        running.wait_for(lambda: running.out.exists() and running.out.read_text() == READY)
        running.send(signal.SIGTERM)
        done = running.ended(120)
    assert done.returncode == 143, done.stderr
    assert done.stderr.endswith("stopped by SIGTERM; run the same command again to go on\n")
    assert "Traceback" not in done.stderr
    assert Checkpoints(run / "checkpoints").steps() == [5]
