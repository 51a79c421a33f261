"""A run with every setting that has a state of its own, or draws of its own, resumes at the very step."""

import csv
import shutil

import pytest
import torch
from safetensors.torch import load_file

from kdcache.errors import RunError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.models.students import create_student
from kdcache.training.export import export_model
from kdcache.training.train import train
from support.small_job import MODEL, OF_THE_CLOCK, stopped_after, train_request

EVERYTHING = (
    *("batch_size=24", "accumulation=3", "grad_checkpointing=true", "clip_grad=0.02", "clip_mode=agc"),
    *("ema_decay=0.99", "ema_warmup=true", "student.drop=0.2", "student.drop_path=0.2", "checkpoint_epochs=2"),
    *("schedule.name=multistep", "schedule.decay_milestones=[1]", "schedule.decay_rate=0.5"),
    *("optimizer.name=momentum", "optimizer.filter_bias_and_bn=false", "optimizer.layer_decay=0.8"),
)


def rows(run):
    with (run / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in written]


def test_a_run_with_everything_set_goes_on_in_mid_epoch_bit_for_bit(job, tmp_path):
    pretrained = tmp_path / "pretrained"
    export_model(pretrained, create_student(MODEL, num_classes=7, size=32, seed=11))
    shutil.copytree(pretrained, tmp_path / "moved")

    def request(name, weights):
        overrides = (*EVERYTHING, f"student.weights={weights}")
        return train_request(
            job.data, tmp_path / name, cache=str(job.cache), epochs=2, val=job.data, overrides=overrides
        )

    whole = train(request("whole", pretrained), keep_losses=True)
    with stopped_after(7):
        train(request("run", pretrained))
    with pytest.raises(RunError, match="holds a run with another student_weights"):
        train(request("run", job.weights))
    rest = train(request("run", tmp_path / "moved"), keep_losses=True)
    assert rest.losses == whole.losses[7:]
    for file in ("export/model.safetensors", "checkpoints/step-00000010/model.safetensors"):
        ours, theirs = (load_file(tmp_path / name / file) for name in ("run", "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), file
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    last = rows(tmp_path / "whole")[-1]
    for column, weights in (("val_loss", "export"), ("val_loss_raw", "checkpoints/step-00000010/model.safetensors")):
        found = evaluate(EvaluateOptions(str(tmp_path / "whole" / "export"), job.data, device="cpu")).loss
        if weights != "export":
            found = evaluate(EvaluateOptions(MODEL, job.data, device="cpu", weights=tmp_path / "whole" / weights)).loss
        assert float(last[column]) == pytest.approx(found, rel=1e-5)
    assert last["val_loss"] != last["val_loss_raw"]
