"""`kdcache export`: write a trained model for timm, torchvision, ONNX or TorchScript, with a model card."""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.errors import UsageError
from kdcache.exporting.formats import (
    FORMATS,
    Format,
    other_formats_file,
    require_agreement,
    require_finite,
    with_class_names,
)
from kdcache.exporting.model_card import Exported, model_card
from kdcache.exporting.options import ExportOptions
from kdcache.exporting.origin import find_origin, read_facts
from kdcache.io.atomic import tidy
from kdcache.io.folder_lock import hold_beside
from kdcache.models.load import load_model
from kdcache.models.run_weights import imports_of_run
from kdcache.runtime.formatting import format_bytes
from kdcache.runtime.imports import import_modules, naming_imports
from kdcache.runtime.progress import Progress, logged
from kdcache.training.export import CARD, write_timm_config
from kdcache.training.files import new_folder, refusals

_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        folder: folder of the export.
        format, dtype: its format, and the number format of its weights.
        files: bytes of each file by its name.
        architecture: timm's name of the model.
        num_classes: number of its outputs.
        image_size: pixels a side of the images that it was trained for.
        is_average: whether the weights are a moving average; None where nothing tells.
        max_difference: largest difference of logits between the model and the written export, on images of noise.
        address: where it is on the hub; None where it was not brought there.
    """

    folder: Path
    format: str
    dtype: str
    files: dict[str, int]
    architecture: str
    num_classes: int
    image_size: int
    is_average: bool | None
    max_difference: float
    address: str | None = None

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        which = {True: ", moving average of the weights", False: ", the weights themselves", None: ""}[self.is_average]
        return [
            f"{self.folder} holds {self.architecture} for {self.format}: {self.num_classes:,} classes, "
            f"{self.image_size} pixels, {self.dtype}{which}.",
            *(f"  {name}: {format_bytes(size)}" for name, size in sorted(self.files.items())),
            "On 3 images of noise its logits "
            + (
                f"differ from the model's by at most {self.max_difference:.2g}."
                if self.max_difference
                else "are the model's."
            ),
            *([f"On the hub: {self.address}"] if self.address else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self) | {"folder": str(self.folder)}


def export(options: ExportOptions, progress: Progress = logged) -> ExportReport:
    """Write the model of a run in a format, as a whole or not at all.

    Raises:
        UsageError: an unknown format or number format, or options that do not suit what was named.
        ModelError: no such run, epoch or average, or a model that cannot be written in this format.
        CorruptError: the checkpoint is damaged.
        RunError: the folder cannot be written, or holds something else.
        FolderHeldError: another process writes the folder.
    """
    chosen, dtype = _chosen(options)
    import_modules(options.imports)
    origin = find_origin(options.run, options.ema)
    facts = read_facts(origin, progress)
    with naming_imports(lambda: {options.run: imports_of_run(Path(options.run))}):
        network = load_model(None, origin.weights)
    network = with_class_names(network, network.card.class_names or origin.class_names())
    chosen.require(network)
    require_finite(network, dtype)
    folder = options.out or Path("exports") / f"{origin.label}-{options.format}"
    folder = Path(os.path.abspath(folder)) if folder.name in ("", "..") else folder
    _require_not_of_a_training(folder)
    _require_own(folder, chosen)
    average = origin.is_average
    if average is None and facts.config is not None:
        average = facts.config.ema_decay is not None
    remedy = "Wait until it has ended, or give another --out."
    with refusals(folder):
        lock = hold_beside(folder, f"The export {folder}", remedy, progress.say)
    with lock:
        with refusals(folder):
            tidy(folder.parent, of=folder.name)
        with new_folder(folder, re.compile("|".join(map(re.escape, chosen.files)))) as partial:
            run = chosen.write(partial, network, dtype)
            difference = require_agreement(network, run, dtype)
            write_timm_config(partial, network, network.card.class_names)
            exported = Exported(origin, options.format, options.dtype, average, chosen.usage(network), chosen.library)
            (partial / CARD).write_text(model_card(exported, network.card, facts), encoding="utf-8")
            lock.require_held()
    return ExportReport(
        folder=folder,
        format=options.format,
        dtype=options.dtype,
        files={file.name: file.stat().st_size for file in folder.iterdir() if file.name in chosen.files},
        architecture=network.card.architecture,
        num_classes=network.card.num_classes,
        image_size=network.card.size,
        is_average=average,
        max_difference=difference,
    )


def _require_not_of_a_training(folder: Path) -> None:
    if folder.name == "export" and (folder.parent / "run_identity.json").exists():
        raise UsageError(
            f"{folder} is what the training of this run writes itself, and replaces later: give another --out."
        )


def _chosen(options: ExportOptions) -> tuple[Format, torch.dtype]:
    """Return the format and the number format by their names."""
    if options.format not in FORMATS:
        raise UsageError(f"There is no format {options.format!r} of exports: choose one of {', '.join(FORMATS)}.")
    if options.dtype not in _DTYPES:
        raise UsageError(f"An export cannot have weights in {options.dtype!r}: choose one of {', '.join(_DTYPES)}.")
    return FORMATS[options.format], _DTYPES[options.dtype]


def _require_own(folder: Path, chosen: Format) -> None:
    """Raise UsageError where a folder holds an export of another format, which would be lost."""
    name = other_formats_file(folder, chosen)
    if name is not None:
        raise UsageError(
            f"{folder} holds {name} of an export in another format, which would be lost: give another folder with "
            "--out, or remove this one."
        )
