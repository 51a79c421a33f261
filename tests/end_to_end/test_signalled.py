"""Commands that a signal ends, as schedulers and containers do it: quickly, with nothing lost and nothing held."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kdcache.cache.store import Cache
from kdcache.dumping.dump import dump
from kdcache.runtime.signals import STOP_SIGNALS
from kdcache.training.checkpoint import Checkpoints
from support.small_job import MODEL, SETTINGS, dump_request


@contextmanager
def started(code: str, *arguments: object, ignored: signal.Signals | None = None) -> Iterator[subprocess.Popen[str]]:
    """`kdcache ARGUMENTS` after some code of the test's, once that has printed "ready"."""

    def dispositions() -> None:
        # A suite that runs in the background has SIGINT ignored, and its children inherit that.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    program = f"import sys\n{code}\nfrom kdcache_cli.main import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=dispositions,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


#: The second batch takes minutes, in an operation that no Python handler can interrupt.
SLOW_TEACHER = """
import fcntl, hashlib
from kdcache.models.teachers import Teacher
compute_output, batches = Teacher.compute_output, 0

def slow(*arguments, **choice):
    global batches
    batches += 1
    if batches == 2:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    return compute_output(*arguments, **choice)

Teacher.compute_output = slow
"""
NO_LOCKS = """
def flock(file, how):
    raise OSError(37, "No locks available")

fcntl.flock = flock
"""


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_a_dump_ends_in_the_midst_of_a_slow_batch_and_gives_its_claims_back(locks, job, tmp_path):
    cache = tmp_path / "cache"
    request = dump_request(job.data, cache, job.weights, job.policy, views=1, renderer="pillow")
    with started(
        SLOW_TEACHER + ("" if locks else NO_LOCKS),
        "dump-logits", "--teacher", MODEL, "--data", job.data, "--cache", cache, "--weights", job.weights,
        "--policy", job.policy, "--views", "1", "--targets", "full", "--batch-size", "16", "--device", "cpu",
        "--renderer", "pillow",
    ) as process:  # fmt: skip
        assert list(cache.glob(".partial/claim-*")), "nothing was claimed"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out == ""
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
    code = """
import os, signal
from kdcache.training.trainer import Trainer
train_step = Trainer.train_step

def told(self, *arguments):
    losses = train_step(self, *arguments)
    if self.step == 2:
        os.kill(os.getpid(), signal.SIGHUP)
        print("ready", flush=True)
    return losses

Trainer.train_step = told
"""
    run = tmp_path / "run"
    with started(
        code, "train", "--student", MODEL, "--data", job.data, "--cache", job.cache, "--recipe", "fashion-mnist",
        "--epochs", "10000", "--out", run, "--device", "cpu", "--renderer", "pillow",
        *(part for setting in SETTINGS for part in ("--set", setting)),
        ignored=signal.SIGHUP,
    ) as process:  # fmt: skip
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 138, err
    step = max(Checkpoints(run / "checkpoints").steps())
    assert step >= 2
    assert f"Saved after step {step:,} of" in err
    assert err.endswith("stopped by SIGUSR1; run the same command again to go on\n")
    assert "Traceback" not in err


#: Evaluation takes minutes, in an operation that no Python handler can interrupt.
STUCK_EVALUATION = """
import hashlib
from kdcache.training import trainer

def score(*arguments, **choice):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

trainer.score = score
"""
#: A checkpoint takes longer than any other work is given after a signal.
SLOW_SAVE = """
import time
from kdcache.runtime.signals import END_SECONDS
from kdcache.training.checkpoint import Checkpoints
save = Checkpoints.save

def slow(*arguments, **choice):
    print("ready", flush=True)
    time.sleep(2 * END_SECONDS)
    return save(*arguments, **choice)

Checkpoints.save = slow
"""


@pytest.mark.parametrize("code", [STUCK_EVALUATION, SLOW_SAVE], ids=["evaluation", "saving"])
def test_a_training_that_a_container_stops_has_the_epoch_whatever_it_is_doing(code, job, tmp_path):
    """The evaluation is not waited for, a checkpoint that is being saved is."""
    run = tmp_path / "run"
    with started(
        code, "train", "--student", MODEL, "--data", job.data, "--cache", job.cache, "--val", job.data, "--recipe",
        "fashion-mnist", "--epochs", "2", "--out", run, "--device", "cpu", "--renderer", "pillow",
        *(part for setting in SETTINGS for part in ("--set", setting)),
    ) as process:  # fmt: skip
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.endswith("stopped by SIGTERM; run the same command again to go on\n")
    assert "Traceback" not in err
    assert Checkpoints(run / "checkpoints").steps() == [5]
