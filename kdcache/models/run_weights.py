"""The weights that a run had at the end of an epoch, where it kept them: `RUN@epoch=35`.

A teacher that stopped early can teach a small student better than a finished one (Cho and Hariharan 2019, "On the
Efficacy of Knowledge Distillation").
"""

import re
from contextlib import suppress
from pathlib import Path

from kdcache.errors import CorruptError, ModelError
from kdcache.io.json_format import parse_json
from kdcache.io.reading import read_bytes
from kdcache.models.run_checkpoint import checkpoint_folder, checkpoint_steps, read_manifest, require_whole_weights

#: The file of a run that says how its last start was asked for.
INVOCATION = "invocation.json"
_AT_EPOCH = re.compile(r"(?P<run>.+)@epoch=(?P<epoch>\d+)")


def at_epoch(path: Path) -> tuple[Path, int] | None:
    """Return the run and the epoch of a path "RUN@epoch=35"; None for another form, or a path that is there."""
    match = _AT_EPOCH.fullmatch(str(path))
    return None if match is None or path.exists() else (Path(match["run"]), int(match["epoch"]))


def kept_weights(run: Path, epoch: int) -> Path:
    """Return the file of the weights that `run` had after an epoch; of their moving average where there is one.

    Raises:
        ModelError, CorruptError: as `checkpoint_of_epoch` does; also where the weights are damaged.
    """
    folder = checkpoint_of_epoch(run, epoch)
    return require_whole_weights(folder, read_manifest(folder))


def checkpoint_of_epoch(run: Path, epoch: int) -> Path:
    """Return the folder of the checkpoint that `run` kept of an epoch; its weights are not read.

    Raises:
        ModelError: no run, or one that has no checkpoint of that epoch; the message names those that there are.
        CorruptError: the checkpoint is damaged.
    """
    if not (run / "metrics.csv").is_file():
        raise ModelError(f"{run} is no run of kdcache's with a metrics.csv: give RUN@epoch=N with a run's folder.")
    checkpoints = run / "checkpoints"
    kept = _kept_epochs(checkpoints)
    if epoch not in kept:
        has = f"has those of {', '.join(map(str, sorted(kept)))}" if kept else "has none"
        raise ModelError(
            f"{run} keeps no checkpoint of epoch {epoch}; it {has}: choose one of them, or train with "
            "--set keep_epochs=N, which keeps every N-th."
        )
    return checkpoint_folder(checkpoints, kept[epoch])


def _kept_epochs(checkpoints: Path) -> dict[int, int]:
    """Return the step of each checkpoint that was saved at the end of an epoch, by that epoch."""
    kept = {}
    for step in checkpoint_steps(checkpoints):
        with suppress(CorruptError):  # one that tells no epoch is none of those that can be named
            epoch = read_manifest(checkpoint_folder(checkpoints, step)).epoch
            if epoch is not None:
                kept[epoch] = step
    return kept


def imports_of_run(path: Path) -> tuple[str, ...]:
    """Return the modules that a run was made with, for a message; none where nothing tells.

    Args:
        path: a run folder, "RUN@epoch=35", the run's export, or the weights in it.
    """
    run, _ = at_epoch(path) or (path, None)
    for folder in (run, run.parent, run.parent.parent):
        if (folder / INVOCATION).is_file():
            with suppress(OSError, ValueError):
                invocation = parse_json(read_bytes(folder / INVOCATION))
                names = invocation.get("imports") if isinstance(invocation, dict) else None
                return tuple(map(str, names)) if isinstance(names, list) else ()
    return ()
