"""The model that a user names: by timm's name, with a file's weights or its own, or by a folder of weights."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import ModelError, UsageError
from kdcache.models.names import architecture, resolve_name
from kdcache.models.run_weights import at_epoch, kept_weights
from kdcache.models.weights import holds_weights, read_card

_LOCAL = "local-dir:"


@dataclass(frozen=True)
class ModelSource:
    """A model by name, or a folder of weights.

    Attributes:
        name: a short name or timm name; None where the weights describe their model.
        weights: path that `read_weights` reads; None for timm's pretrained weights.
        label: name in reports: its name, or that of its folder.
    """

    name: str | None
    weights: Path | None
    label: str

    @property
    def architecture(self) -> str | None:
        """The name of timm's without a tag; None where only a download tells."""
        if self.name is not None:
            return None if self.name.startswith("hf-hub:") else architecture(self.name)
        card = read_card(self.weights) if self.weights is not None else None
        return None if card is None else card.architecture


def model_source(given: str, weights: Path | None = None) -> ModelSource:
    """Return the model that `given` names: a name, or the folder of a run, an export, or of timm's `local-dir:`.

    A run's checkpoint of an epoch is "RUN@epoch=35", as the model and as the weights of one. A folder that is called
    like a model of timm's is meant only where it holds weights, or by its path ("./resnet50").

    Raises:
        ModelError: nobody knows the name; there is no such folder or epoch, or it does not tell its model.
        CorruptError: the checkpoint of the epoch is damaged.
        UsageError: weights beside a folder that has its own.
    """
    path = Path(given.removeprefix(_LOCAL))
    if not is_model_folder(given, path):
        resolve_name(given)
        return ModelSource(given, None if weights is None else weights_file(weights), given)
    if weights is not None:
        raise UsageError(
            f"{path} is a folder, which is taken with weights of its own: leave the others out, or name the model that "
            "they belong to in its place."
        )
    if at_epoch(path) is None and not path.exists():
        raise ModelError(f"There is no run folder {path}: check the path, or name a timm model.")
    own = weights_file(path)
    if read_card(own) is None:
        raise ModelError(
            f"The weights in {path} do not say which model they belong to: name it, and give them as its weights."
        )
    return ModelSource(None, own, label_of(given))


def label_of(given: str) -> str:
    """Return the name in reports of the model that `given` names: the name itself, or the folder's."""
    path = Path(given.removeprefix(_LOCAL))
    return _folder_label(path) if is_model_folder(given, path) else given


def weights_file(weights: Path) -> Path:
    """Return the path that `read_weights` reads for a path, which may be "RUN@epoch=35"."""
    place = at_epoch(weights)
    return weights if place is None else kept_weights(*place)


def is_model_folder(given: str, path: Path) -> bool:
    """Return whether what a user gave as a model is meant as a folder of weights, which is at `path`."""
    if given.startswith("hf-hub:"):
        return False
    if given.startswith(_LOCAL) or os.sep in given or at_epoch(path) is not None:
        return True
    return path.is_dir() and ((path / "config.yaml").is_file() or holds_weights(path))


def _folder_label(path: Path) -> str:
    """Return the folder's own name, or that of the run which it is a part of: "runs/big@epoch=35" is "big-epoch-35"."""
    run, epoch = at_epoch(path) or (path, None)
    whole = Path(os.path.abspath(run))
    name = whole.parent.name if whole.name == "export" else whole.name
    return re.sub(r"[^A-Za-z0-9._-]", "-", name if epoch is None else f"{name}-epoch-{epoch}")
