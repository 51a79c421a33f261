"""`--log`: wandb (offline) and MLflow (in a folder) have the numbers of the tables; their failure ends nothing."""

import json
import struct
from pathlib import Path

import pytest

from kdcache.errors import UsageError
from kdcache.training import loggers
from kdcache.training.logs import Guarded
from kdcache.training.metrics import read_metrics
from kdcache.training.train import train
from support.small_job import Heard, stopped_after, train_request


def log_records(data: bytes):
    """The records of a file of wandb's offline mode, which is a log as LevelDB writes it behind a header of 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:  # no record begins in the last bytes of a block
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def offline_records(file: Path):
    """The settings and the rows of numbers in a file of wandb's offline mode."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows, config = [], {}
    for data in log_records(file.read_bytes()):
        record = Record.FromString(data)
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        items = [(item.key or "/".join(item.nested_key), json.loads(item.value_json)) for item in record.history.item]
        rows += [dict(items)] if items else []
    return config, rows


def test_wandb_and_mlflow_have_the_numbers_of_the_tables_also_of_a_run_that_was_stopped(job, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    out, heard = tmp_path / "run", Heard()
    choice = {"overrides": ("log_steps=2",), "epochs": 2, "log": ("wandb", "mlflow")}
    with stopped_after(7):
        train(train_request(job.data, out, cache=str(job.cache), **choice), heard)
    train(train_request(job.data, out, cache=str(job.cache), **choice), heard)
    assert heard.warned == []
    epochs, steps = read_metrics(out / "metrics.csv"), read_metrics(out / "steps.csv")

    files = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2, "one of each start"
    assert len({file.stem for file in files}) == 1, "of one run"
    found = [offline_records(file) for file in files]
    assert found[0][0]["student"]["name"] == "test_resnet"
    rows = [row for _, some in found for row in some]
    loss_of = {row["optimizer_step"]: row["loss"] for row in rows if "loss" in row}
    assert loss_of == {row["step"]: row["loss"] for row in epochs}
    step_loss_of = {row["optimizer_step"]: row["step/loss"] for row in rows if "step/loss" in row}
    assert step_loss_of == {row["step"]: row["loss"] for row in steps}

    from mlflow import MlflowClient

    client = MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("kdcache").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["student.name"] == "test_resnet"
    for name, table in (("loss", epochs), ("step/loss", steps)):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in history] == [(row["step"], row["loss"]) for row in table]


class Failing:
    """A logger that takes a few rows and then fails, as one whose server has gone."""

    def __init__(self, run):
        self.taken = 0

    def append(self, step, values):
        self.taken += 1
        if self.taken == 2:
            raise ConnectionError("the server\nhas gone")

    def close(self):
        raise AssertionError("it has failed before")


def test_a_logger_that_fails_is_warned_of_once_and_ends_nothing(job, tmp_path, monkeypatch):
    monkeypatch.setitem(loggers.LOGGERS, "wandb", Failing)
    heard = Heard()
    choice = {"overrides": ("log_steps=1",), "epochs": 1, "log": ("wandb",)}
    report = train(train_request(job.data, tmp_path / "run", cache=str(job.cache), **choice), heard)
    assert report.steps == 5
    [warned] = heard.warned
    assert warned.startswith("--log wandb takes no numbers of this run any more (the server has gone); metrics.csv has")
    assert len(read_metrics(tmp_path / "run" / "steps.csv")) == 5


def test_a_logger_that_cannot_be_opened_or_closed_is_warned_of():
    def refuse():
        raise OSError("no space left")

    warnings = []
    logger = Guarded("one", refuse, warnings.append)
    logger.append(1, {"loss": 1.0})
    logger.close()
    assert len(warnings) == 1
    Guarded("other", lambda: Failing(None), warnings.append).close()
    assert len(warnings) == 2


def test_loggers_that_are_unknown_or_not_installed_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="There is no logger 'paper': give wandb or mlflow"):
        train(train_request("data", tmp_path / "run", supervised=True, log=("paper",), dry_run=True))
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'kdcache\[wandb\]'"):
        train(train_request("data", tmp_path / "run", supervised=True, log=("wandb",)))
    assert list(tmp_path.iterdir()) == []
