"""A run with every setting that has a state of its own, or draws of its own, resumes at the very step."""

import csv
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcache.errors import RunError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.models.students import StudentOptions, create_student
from kdcache.runtime.progress import silent
from kdcache.training.export import export_model
from kdcache.training.options import TrainOptions
from kdcache.training.train import TrainReport, train
from kdcache.training.train_state import TrainState
from support.forked import CONTEXT
from support.small_job import MODEL, OF_THE_CLOCK, train_request

EVERYTHING = (
    *("batch_size=24", "accumulation=3", "grad_checkpointing=true", "clip_grad=0.02", "clip_mode=agc"),
    *("ema_decay=0.99", "ema_warmup=true", "student.drop=0.2", "student.drop_path=0.2", "checkpoint_epochs=2"),
    *("schedule.name=multistep", "schedule.decay_milestones=[1]", "schedule.decay_rate=0.5"),
    *("optimizer.name=momentum", "optimizer.filter_bias_and_bn=false", "optimizer.layer_decay=0.8"),
    *("optimizer.kwargs={foreach: true}", "dist_bn=reduce", "tf32=true", "cudnn_benchmark=true"),
    *("mixup_off_epoch=1", "student.in_chans=1"),
)
STEPS_PER_EPOCH, STEPS, PARTS = 5, 10, 3


@dataclass(frozen=True)
class Whole:
    """A run that nothing has interrupted, and the weights that it began from."""

    folder: Path
    pretrained: Path
    report: TrainReport


def request(data: str, out: Path, weights: Path, policy: str) -> TrainOptions:
    overrides = (*EVERYTHING, f"student.weights={weights}", f"views.policy={policy}")
    return train_request(data, out, supervised=True, epochs=2, val=data, overrides=overrides)


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory) -> Whole:
    root = tmp_path_factory.mktemp("whole")
    pretrained = root / "pretrained"
    options = StudentOptions(in_chans=1)
    export_model(pretrained, create_student(MODEL, num_classes=7, size=32, seed=11, options=options))
    report = train(request(job.data, root / "run", pretrained, job.policy), keep_losses=True)
    return Whole(root / "run", pretrained, report)


def rows(run):
    with (run / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in written]


@contextmanager
def signalled_between_parts(number: int, step: int):
    """Trainings get a signal after the first part of the batch of a step, before the second one."""
    forward, parts = TrainState._forward, []

    def counting(self, *arguments, **named):
        parts.append(self.step)
        if parts[-1] == step and parts.count(step) == 2:
            os.kill(os.getpid(), number)
        return forward(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "_forward", counting)
        yield parts


def train_until_killed(options: TrainOptions) -> None:
    """For a process of its own: train, and be killed in the middle of the step after the seventh."""
    with signalled_between_parts(signal.SIGKILL, 7):
        train(options, silent)


def require_same_run(run, whole):
    for file in ("export/model.safetensors", f"checkpoints/step-{STEPS:08d}/model.safetensors"):
        ours, theirs = (load_file(folder / file) for folder in (run, whole.folder))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), file
    assert rows(run) == rows(whole.folder)


def test_a_run_with_everything_set_goes_on_in_mid_epoch_bit_for_bit(job, whole, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(whole.pretrained, moved)
    with signalled_between_parts(signal.SIGTERM, 6) as parts, pytest.raises(KeyboardInterrupt):
        train(request(job.data, run, whole.pretrained, job.policy))
    assert parts == [step for step in range(7) for _ in range(PARTS)], "the step is finished, and saved"
    other = tmp_path / "other"
    export_model(other, create_student(MODEL, num_classes=7, size=32, seed=12, options=StudentOptions(in_chans=1)))
    with pytest.raises(RunError, match="holds a run with another student_weights"):
        train(request(job.data, run, other, job.policy))
    rest = train(request(job.data, run, moved, job.policy), keep_losses=True)
    assert rest.losses == whole.report.losses[7:]
    require_same_run(run, whole)


def test_a_run_that_is_killed_between_parts_of_a_batch_takes_the_whole_step_again(job, whole, tmp_path):
    options = request(job.data, tmp_path / "run", whole.pretrained, job.policy)
    process = CONTEXT.Process(target=train_until_killed, args=(options,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    rest = train(options, keep_losses=True)
    assert rest.losses == whole.report.losses[STEPS_PER_EPOCH:], "from the checkpoint at the end of the epoch"
    require_same_run(tmp_path / "run", whole)


def test_the_scores_of_a_run_are_those_of_both_of_its_weights(job, whole):
    last = rows(whole.folder)[-1]
    checkpoint = whole.folder / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
    averaged = evaluate(EvaluateOptions(str(whole.folder / "export"), job.data, device="cpu"))
    themselves = evaluate(EvaluateOptions(MODEL, job.data, device="cpu", weights=checkpoint))
    assert float(last["val_loss"]) == pytest.approx(averaged.loss, rel=1e-5)
    assert float(last["val_loss_raw"]) == pytest.approx(themselves.loss, rel=1e-5)
    assert last["val_loss"] != last["val_loss_raw"]
