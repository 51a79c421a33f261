"""The weights that a run had at the end of an epoch, where it kept them: `RUN@epoch=35`.

A teacher that stopped early can teach a small student better than a finished one (Cho and Hariharan 2019, "On the
Efficacy of Knowledge Distillation").
"""

import re
from pathlib import Path

from kdcache.errors import ModelError
from kdcache.run.checkpoint import Checkpoints
from kdcache.run.metrics import read_metrics

_AT_EPOCH = re.compile(r"(?P<run>.+)@epoch=(?P<epoch>\d+)")


def at_epoch(path: Path) -> tuple[Path, int] | None:
    """The run and the epoch that a path "RUN@epoch=35" means; None for a path of another form, or one that is there."""
    match = _AT_EPOCH.fullmatch(str(path))
    return None if match is None or path.exists() else (Path(match["run"]), int(match["epoch"]))


def kept_weights(run: Path, epoch: int) -> Path:
    """The file of the weights that `run` had after so many epochs; of their moving average where there is one.

    Raises:
        ModelError: no run, or one that has no checkpoint of that epoch; it names those that there are.
        CorruptError: the checkpoint is damaged.
    """
    metrics = run / "metrics.csv"
    if not metrics.is_file():
        raise ModelError(f"{run} is no run of kdcache's with a metrics.csv: give RUN@epoch=N with a run's folder.")
    checkpoints = Checkpoints(run / "checkpoints")
    steps = set(checkpoints.steps())
    by_epoch = {int(row["epoch"] or 0): int(row["step"] or 0) for row in read_metrics(metrics)}
    kept = {number: step for number, step in by_epoch.items() if step in steps}
    if epoch not in kept:
        has = f"has those of {', '.join(map(str, sorted(kept)))}" if kept else "has none"
        raise ModelError(
            f"{run} keeps no checkpoint of epoch {epoch}; it {has}: choose one of them, or train with "
            "--set keep_epochs=N, which keeps every N-th."
        )
    return checkpoints.weights(kept[epoch])
