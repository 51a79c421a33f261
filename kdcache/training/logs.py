"""The numbers of a run, for each epoch and every few steps, in tables, in TensorBoard, and wherever else is asked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

from kdcache.training.loggers import LOGGERS, LoggedRun, Values
from kdcache.training.metrics import STEP, MetricsTable, TensorBoard
from kdcache.training.setup import Setup

METRICS = "metrics.csv"
STEPS = "steps.csv"
#: What every row begins and ends with; its losses, and the scores of an epoch, are between.
FIRST_COLUMNS = ("epoch", "lr", "images_per_s", "loss")
LAST_COLUMNS = ("wait_share", "memory_bytes", "energy_joules")
#: Before the names of numbers that belong to some steps, where those of epochs are in the same place.
STEP_PREFIX = "step/"


@runtime_checkable
class ScalarLogger(Protocol):
    """A place beside the tables that takes the same numbers."""

    def append(self, step: int, values: Values) -> None:
        """Add the numbers of a step, each under its name; None is left out."""

    def close(self) -> None:
        """Finish."""


class Guarded:
    """A logger whose failure is told once and ends nothing: the tables have all numbers."""

    def __init__(self, name: str, make: Callable[[], ScalarLogger], warn: Callable[[str], None]) -> None:
        """
        Args:
            name: name of the logger, for the warning.
            make: function that opens it.
            warn: function that is told when it fails.
        """
        self._name, self._warn = name, warn
        self._logger: ScalarLogger | None = None
        with self._failures():
            self._logger = make()

    def append(self, step: int, values: Values) -> None:
        """Add the numbers of a step, unless the logger has failed before."""
        with self._failures():
            if self._logger is not None:
                self._logger.append(step, values)

    def close(self) -> None:
        """Finish, unless the logger has failed before."""
        logger, self._logger = self._logger, None
        with self._failures():
            if logger is not None:
                logger.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a library that may raise anything, and of a network
            self._logger = None
            text = " ".join(str(error).split()) or type(error).__name__
            self._warn(
                f"{self._name} takes no numbers of this run any more ({text:.300}); {METRICS} has those of all epochs. "
                "The training goes on, and a run that is started again tries it again."
            )


class RunLogs:
    """Writes the rows of epochs and steps of a run that begins, or that goes on after a step.

    metrics.csv has a row for each epoch and steps.csv one every `log_steps` steps. The other loggers have both, the
    numbers of steps under names that begin with "step/".
    """

    def __init__(self, metrics: MetricsTable, steps: MetricsTable, others: Sequence[ScalarLogger]) -> None:
        self._metrics = metrics
        self._others = others
        self._steps = steps

    def append_epoch(self, step: int, values: Values) -> None:
        """Write the row of an epoch that ended with a step.

        Raises:
            RunError: the disk refuses.
        """
        self._metrics.append(step, values)
        for logger in self._others:
            logger.append(step, values)

    def append_steps(self, step: int, values: Values) -> None:
        """Write the row of the steps since the last one.

        Raises:
            RunError: the disk refuses.
        """
        self._steps.append(step, values)
        for logger in self._others:
            logger.append(step, step_values(values))

    def close(self) -> None:
        """Finish all loggers."""
        for logger in self._others:
            logger.close()


def step_values(values: Values) -> dict[str, float | int | None]:
    """Return the numbers of some steps under the names that they have beside those of epochs."""
    return {f"{STEP_PREFIX}{name}": value for name, value in values.items() if name != STEP}


def open_logs(setup: Setup, step: int, scores: Sequence[str], warn: Callable[[str], None]) -> RunLogs:
    """Open the logs of a run, cut after a step.

    Args:
        setup: the training.
        step: number of optimiser steps done.
        scores: columns of metrics.csv that steps.csv does not have.
        warn: function that is told when a logger fails.

    Raises:
        RunError: a table has other columns, or cannot be read or written.
    """
    folder, parts = setup.folder, setup.config.objective.parts
    metrics = MetricsTable(folder / METRICS, (*FIRST_COLUMNS, *parts, *scores, *LAST_COLUMNS), resume_step=step)
    steps = MetricsTable(folder / STEPS, (*FIRST_COLUMNS, *parts, *LAST_COLUMNS), resume_step=step)
    last_row = next(reversed(metrics.rows()), None)
    board = TensorBoard(folder / "events", warn=warn, last_row=last_row)
    # The events from the last row on were marked as void, also those of steps that the run does not go back behind.
    since = 0 if last_row is None else last_row[STEP] or 0
    for row in steps.rows():
        if (at := row[STEP] or 0) >= since:
            board.append(int(at), step_values(row))
    run = LoggedRun(folder, setup.config, is_resumed=step > 0)
    loggers = [Guarded(f"--log {name}", partial(LOGGERS[name], run), warn) for name in dict.fromkeys(setup.options.log)]
    return RunLogs(metrics, steps, [board, *loggers])
