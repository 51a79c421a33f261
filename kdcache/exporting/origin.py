"""The weights that are exported: which file of a run they are, and what the run tells of them."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import ConfigError, KdcacheError, ModelError, UsageError, reason
from kdcache.io.json_format import parse_json
from kdcache.io.reading import read_bytes
from kdcache.models.run_checkpoint import checkpoint_folder, checkpoint_steps, read_manifest, require_whole
from kdcache.models.run_weights import at_epoch, checkpoint_of_epoch
from kdcache.models.source import label_of, model_source
from kdcache.models.weights import read_card
from kdcache.runtime.progress import Progress
from kdcache.training.config import RunConfig, read_config
from kdcache.training.metrics import read_metrics

_LOCAL = "local-dir:"
_EXPORTED = "export/model.safetensors"


@dataclass(frozen=True)
class Origin:
    """The weights to export.

    Attributes:
        label: name of the model in the card and in the default folder: the run's.
        weights: file of the weights.
        run: folder of the run that they are of; None where they lie in no run.
        epoch: epoch after which the run had them; None for its end.
        is_average: whether they are a moving average; None where nothing tells.
    """

    label: str
    weights: Path
    run: Path | None
    epoch: int | None = None
    is_average: bool | None = None

    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes that the run's own export has: a checkpoint has none."""
        exported = None if self.run is None else self.run / _EXPORTED
        card = read_card(exported) if exported is not None and exported.is_file() else None
        return None if card is None else card.class_names


def find_origin(given: str, ema: bool | None) -> Origin:
    """Return the weights that `given` names.

    Args:
        given: a run folder, "RUN@epoch=35", or the folder of an export.
        ema: True for the moving average, False for the weights themselves, of a checkpoint of the run; None for what
            the run exports: the average where there is one.

    Raises:
        UsageError: the name of a model in place of a run, or `ema` of a folder that has no checkpoints.
        ModelError: no such run or epoch, a run that has not come to its end, or one without the weights asked for.
        CorruptError: the checkpoint is damaged.
    """
    path = Path(given.removeprefix(_LOCAL))
    place = at_epoch(path)
    if place is not None:
        run, epoch = place
        return _of_checkpoint(given, run, checkpoint_of_epoch(run, epoch), epoch, ema)
    source = model_source(given)
    if source.weights is None:
        raise UsageError(
            f"{given} is the name of a model, and an export is made of a training: give a run folder, RUN@epoch=N, or "
            "the folder of an export."
        )
    steps = checkpoint_steps(path / "checkpoints")
    if ema is None:
        return Origin(source.label, source.weights, _run_of(path))
    if not steps or not (path / _EXPORTED).is_file():
        raise UsageError(
            f"{path} has no checkpoints to choose from, only one set of weights: leave out --ema and --no-ema, or give "
            "the folder of the run that it was exported from."
        )
    return _of_checkpoint(given, path, checkpoint_folder(path / "checkpoints", steps[-1]), None, ema)


def _of_checkpoint(given: str, run: Path, folder: Path, epoch: int | None, ema: bool | None) -> Origin:
    manifest = read_manifest(folder)
    has_average = "ema.safetensors" in manifest.files
    if ema and not has_average:
        raise ModelError(
            f"{run} keeps no moving average of its weights: leave out --ema to export the weights themselves, or train "
            "with --set ema_decay=0.9999."
        )
    is_average = has_average if ema is None else ema
    file = require_whole(folder, "ema.safetensors" if is_average else "model.safetensors", manifest)
    return Origin(label_of(given), file, run, epoch, is_average)


def _run_of(path: Path) -> Path | None:
    """Return the folder of the run that a folder is, or is the export of."""
    return next((folder for folder in (path, path.resolve().parent) if (folder / "run_identity.json").is_file()), None)


@dataclass(frozen=True)
class RunFacts:
    """What a run tells of its training; each is None where it does not.

    Attributes:
        config: every setting.
        teacher: identity of the teacher, as in run_identity.json.
        fingerprint: hash of the training data.
        samples: number of its images.
        scores: columns of metrics.csv after the epoch of the weights.
    """

    config: RunConfig | None = None
    teacher: dict[str, Any] | None = None
    fingerprint: str | None = None
    samples: int | None = None
    scores: dict[str, float | None] | None = None


def read_facts(origin: Origin, progress: Progress) -> RunFacts:
    """Return what the run of some weights tells; what cannot be read is warned of and left out of the card."""
    if origin.run is None:
        return RunFacts()
    try:
        identity = parse_json(read_bytes(origin.run / "run_identity.json"))
        views = identity.get("view_set") or {}
        teacher = identity.get("teacher")
        return RunFacts(
            config=read_config(origin.run / "config.yaml"),
            teacher=teacher if isinstance(teacher, dict) else None,
            fingerprint=None if views.get("fingerprint") is None else str(views["fingerprint"]),
            samples=views["samples"] if type(views.get("samples")) is int else None,
            scores=_scores(origin),
        )
    except (OSError, ValueError, AttributeError, ConfigError) as error:
        progress.warn(
            f"The facts of {origin.run} cannot be read ({reason(error)}), so the model card does not have them."
        )
        return RunFacts()


def _scores(origin: Origin) -> dict[str, float | None] | None:
    """Return the row of metrics.csv of the epoch of the weights, or the last one."""
    assert origin.run is not None
    with suppress(OSError, KdcacheError):
        rows = read_metrics(origin.run / "metrics.csv")
        return next((row for row in reversed(rows) if origin.epoch in (None, row.get("epoch"))), None)
    return None
