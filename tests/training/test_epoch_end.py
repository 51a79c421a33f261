"""The end of an epoch: whatever comes between saving, evaluation, its row, the best checkpoint and the export, the run
that goes on ends as an uninterrupted one does."""

import csv
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdcache.data.index import open_index
from kdcache.errors import DataError, RunError
from kdcache.evaluation import scoring
from kdcache.runtime.signals import Interrupted
from kdcache.training.checkpoint import Checkpoints
from kdcache.training.metrics import MetricsTable, TensorBoard
from kdcache.training.train import train
from support.forked import CONTEXT
from support.small_job import OF_THE_CLOCK, Heard, make_data, train_request

EPOCHS = 2


def request_for(job, out, val=None):
    return train_request(job.data, out, cache=str(job.cache), epochs=EPOCHS, val=val or job.data, renderer="pillow")


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def events_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(run / "events"))
    accumulator.Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
        if name not in OF_THE_CLOCK
    }


def exported(run: Path) -> dict[str, bytes]:
    """The tensors; their file names the metadata in an order of its own."""
    tensors = load_file(run / "export" / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def results_of(run: Path):
    """Everything that a run ends with and that no clock decides."""
    return {
        "rows": [{name: text for name, text in row.items() if name not in OF_THE_CLOCK} for row in rows_of(run)],
        "events": events_of(run),
        "best": json.loads((run / "checkpoints" / "best.json").read_text()),
        "checkpoints": sorted(path.name for path in (run / "checkpoints").glob("step-*")),
        "export": exported(run),
    }


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    """What an uninterrupted run ends with."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(request_for(job, out))
    return results_of(out)


class Killed(BaseException):
    """The process ends here."""


#: What is called before each instant, by where it is found, and how many calls of it are allowed.
INSTANTS = {
    "before the first evaluation": ("kdcache.training.trainer.score", 0),
    "before the first row": (MetricsTable, "append", 0),
    "between the row and its event": (TensorBoard, "append", 0),
    "before the first score is noted": (Checkpoints, "note_score", 0),
    "before the last evaluation": ("kdcache.training.trainer.score", 1),
    "before the last score is noted": (Checkpoints, "note_score", 1),
    "before the export": ("kdcache.training.trainer.export_model", 0),
}


@pytest.mark.parametrize("instant", INSTANTS)
def test_a_run_that_ends_between_two_records_goes_on_to_the_same_result(job, whole, tmp_path, monkeypatch, instant):
    *where, allowed = INSTANTS[instant]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if len(where) == 1:
            module, name = where[0].rsplit(".", 1)
            there = getattr(__import__(module, fromlist=[name]), name)
        else:
            there = getattr(*where)
        calls = 0

        def die_in_time(*arguments, **choice):
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise Killed
            return there(*arguments, **choice)

        patch.setattr(*where, die_in_time)
        with pytest.raises(Killed):
            train(request_for(job, run))
    step = max(Checkpoints(run / "checkpoints").steps())
    assert step == (10 if "last" in instant or "export" in instant else 5)
    saved = Checkpoints(run / "checkpoints").load(step)
    report = train(request_for(job, run))
    assert results_of(run) == whole
    assert report.evaluation is not None
    row = rows_of(run)[step // 5 - 1]
    assert float(row["images_per_s"]) == saved.trainer["report"]["images_per_s"], "not measured again"


def _train_until_killed(request, environment) -> None:
    os.environ.update(environment)
    image = scoring.decode_rgb
    calls = 0

    def die_in_evaluation(encoded):
        nonlocal calls
        calls += 1
        if calls > 40:  # the first is looked at before the first step
            os.kill(os.getpid(), signal.SIGKILL)
        return image(encoded)

    scoring.decode_rgb = die_in_evaluation
    train(request)


def test_a_process_that_is_killed_while_it_evaluates_has_saved_the_epoch(job, whole, tmp_path):
    run = tmp_path / "run"
    process = CONTEXT.Process(target=_train_until_killed, args=(request_for(job, run), dict(os.environ)))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert Checkpoints(run / "checkpoints").steps() == [5]
    assert not rows_of(run)
    heard = Heard()
    train(request_for(job, run), heard)
    assert any("Going on from step 5 of 10" in line for line in heard.said)
    assert results_of(run) == whole


@pytest.mark.parametrize("where", ["score", "export_model"])
def test_a_signal_stops_evaluation_and_export_at_once_and_loses_nothing(job, whole, tmp_path, monkeypatch, where):
    run = tmp_path / "run"
    reached = []

    def slow(*arguments, **choice):
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("the end")

    with monkeypatch.context() as patch:
        patch.setattr(f"kdcache.training.trainer.{where}", slow)
        with pytest.raises(Interrupted) as interrupt:
            train(request_for(job, run))
    assert interrupt.value.exit_code == 143
    assert not reached
    train(request_for(job, run))
    assert results_of(run) == whole


def test_a_signal_during_saving_waits_until_it_is_saved(job, whole, tmp_path, monkeypatch):
    """However many come; then nothing is evaluated any more."""
    run = tmp_path / "run"
    save = Checkpoints.save

    def signalled(self, *arguments, **choice):
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        return save(self, *arguments, **choice)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", signalled)
        patch.setattr(
            "kdcache.training.trainer.score", lambda *_, **__: pytest.fail("evaluated after a request to stop")
        )
        # A suite that runs in the background has SIGINT ignored.
        patch.setattr(signal, "raise_signal", lambda number: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted) as interrupt:
            train(request_for(job, run))
    assert interrupt.value.number == signal.SIGUSR1
    assert Checkpoints(run / "checkpoints").steps() == [5]
    train(request_for(job, run))
    assert results_of(run) == whole


def test_an_evaluation_that_fails_loses_nothing_and_says_how_to_go_on(job, whole, tmp_path, monkeypatch):
    val = make_data(tmp_path / "val")
    run = tmp_path / "run"
    request = request_for(job, run, val)
    save = Checkpoints.save

    def lose_a_shard(self, *arguments, **choice):
        (tmp_path / "val" / "shard-000001.tar").rename(tmp_path / "shard")
        return save(self, *arguments, **choice)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", lose_a_shard)
        with pytest.raises(RunError) as error:
            train(request)
    message = str(error.value)
    assert "after step 5: The shard" in message
    assert f"this step is saved in {run / 'checkpoints'}" in message
    assert "the same command evaluates it and goes on from there; without --val it goes on" in message
    shutil.copytree(run, tmp_path / "without")
    (tmp_path / "shard").rename(tmp_path / "val" / "shard-000001.tar")
    train(request)
    assert results_of(run) == whole
    report = train(replace(request, out=tmp_path / "without", val=None))
    assert report.evaluation is None
    assert [row["val_top1"] for row in rows_of(tmp_path / "without")] == ["", ""]
    assert exported(tmp_path / "without") == whole["export"]


def test_images_to_evaluate_on_that_cannot_be_decoded_are_refused_before_the_first_step(job, tmp_path):
    val = make_data(tmp_path / "val", shards=1)
    index = open_index(val)
    first = int(index.offset.argmin())
    with (tmp_path / "val" / "shard-000000.tar").open("r+b") as shard:
        shard.seek(int(index.offset[first]) + int(index.length[first]) - 200)
        shard.write(bytes(200))
    stamp = os.stat(index.path / "index.json").st_mtime_ns  # the index stays what it is: the headers are whole
    os.utime(tmp_path / "val" / "shard-000000.tar", ns=(stamp, stamp))
    open_index(val)
    with pytest.raises(DataError, match=index.key(first)):
        train(request_for(job, tmp_path / "run", val))
    assert not (tmp_path / "run").exists()


def test_events_that_cannot_be_written_end_no_training(job, whole, tmp_path, monkeypatch):
    def refuse(self, data):
        raise OSError(28, "No space left on device")

    heard = Heard()
    with monkeypatch.context() as patch:
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", refuse)
        train(request_for(job, tmp_path / "run"), heard)
    assert len([line for line in heard.warned if "events cannot be written (" in line]) == 1
    assert results_of(tmp_path / "run") | {"events": whole["events"]} == whole
