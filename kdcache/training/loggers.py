"""Loggers of others that `kdcache train --log` names: Weights & Biases, and MLflow.

Both take their places and accounts from their own environment variables (WANDB_MODE, WANDB_PROJECT,
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...).
"""

import importlib.util
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import UsageError
from kdcache.training.settings import to_plain

Values = Mapping[str, float | int | None]

#: Project of wandb and experiment of MLflow, where the environment names none.
PROJECT = "kdcache"
#: Name of the step in wandb, whose own steps may not go back when a run goes on from its last checkpoint.
WANDB_STEP = "optimizer_step"
#: Tag by which MLflow finds the run of a folder again.
MLFLOW_TAG = "kdcache.folder"
_MLFLOW_PARAMS = 100  # parameters that MLflow takes in one call


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run before its first number.

    Attributes:
        folder: run folder, whose name is the run's.
        config: resolved configuration.
        is_resumed: whether the run goes on after a step.
    """

    folder: Path
    config: Any
    is_resumed: bool


class Wandb:
    """A run of Weights & Biases, whose own files are in the folder `wandb` of the run folder."""

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            dir=str(run.folder),
            config=to_plain(run.config),
            id=_last_wandb_id(run.folder) if run.is_resumed else None,
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric=WANDB_STEP)

    def append(self, step: int, values: Values) -> None:
        """Add the numbers of a step."""
        self._run.log({WANDB_STEP: step} | {name: value for name, value in values.items() if value is not None})

    def close(self) -> None:
        """Send, or write, what is left."""
        self._run.finish()


class Mlflow:
    """A run of MLflow, on the server or in the store that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: LoggedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        folder = str(run.folder.absolute())
        before = self._runs_of(experiment, folder) if run.is_resumed else []
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        begun = self._client.create_run(experiment, run_name=run.folder.name, tags={MLFLOW_TAG: folder})
        self._id = begun.info.run_id
        params = [Param(name, str(value)) for name, value in _flat(to_plain(run.config)).items()]
        for first in range(0, len(params), _MLFLOW_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + _MLFLOW_PARAMS])

    def append(self, step: int, values: Values) -> None:
        """Add the numbers of a step."""
        now = int(time.time() * 1000)
        given = {name: float(value) for name, value in values.items() if value is not None}
        self._client.log_batch(
            self._id, metrics=[self._metric(name, value, now, step) for name, value in given.items()]
        )

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._id)

    def _runs_of(self, experiment: str, folder: str) -> list[Any]:
        """Return the runs of a folder, the latest first."""
        quote = "'" if '"' in folder else '"'
        wanted = f"tags.`{MLFLOW_TAG}` = {quote}{folder}{quote}"
        return list(self._client.search_runs([experiment], wanted, order_by=["attributes.start_time DESC"]))


#: The loggers by the name that `--log` takes, which is that of the extra and of the module that they import.
LOGGERS: dict[str, type[Wandb] | type[Mlflow]] = {"wandb": Wandb, "mlflow": Mlflow}


def require_loggers(names: tuple[str, ...]) -> None:
    """Refuse loggers that are not known or not installed.

    Raises:
        UsageError: says which, and what to install.
    """
    for name in names:
        if name not in LOGGERS:
            raise UsageError(f"There is no logger {name!r}: give {' or '.join(LOGGERS)} to --log.")
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"--log {name} needs the package {name}, which is not installed: run `pip install 'kdcache[{name}]'`, "
                "or leave it out."
            )


def _last_wandb_id(folder: Path) -> str | None:
    """Return the id of the last wandb run of a folder, from the name of its own folder; None where there is none."""
    runs = [path.name for path in (folder / "wandb").glob("*run-*-*")]
    found = [match for name in runs if (match := re.fullmatch(r"(?:offline-)?run-(\d+_\d+)-(.+)", name))]
    return max(found, key=lambda match: match[1])[2] if found else None


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return settings by their dotted names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        below = value if isinstance(value, Mapping) and value else None
        out |= {f"{path}{name}": value} if below is None else _flat(below, f"{path}{name}.")
    return out
