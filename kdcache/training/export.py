"""Export of a trained model in a form that `timm.create_model` and kdcache load, from one folder or one file."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kdcache.models.network import Network
from kdcache.training.files import new_folder
from kdcache.training.tree import stored

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
#: The model card, which `kdcache export` adds.
CARD = "README.md"

#: The files that a training exports: a folder with any other is not replaced by a new one.
FILES = re.compile("|".join(map(re.escape, (WEIGHTS, CONFIG))))

# Facts of timm's own about the architecture, which its loaders and feature extractors read.
_KEPT = ("fixed_input_size", "first_conv", "classifier")


def export_model(
    folder: Path,
    network: Network,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Write `folder` with the weights and their description; what stood there gives way to it as a whole.

    Both of these load it, C being the number of classes:

        timm.create_model(ARCHITECTURE, num_classes=C, checkpoint_path="FOLDER/model.safetensors", **model_args)
        timm.create_model("local-dir:FOLDER", pretrained=True)

    The header of model.safetensors describes the model as well, so that this one file is enough for kdcache.

    Args:
        folder: folder of the export; its parents are made.
        network: model and its card.
        tensors: state dict in place of the module's own, such as its moving average.
        dtype: number format of floating point weights in the file; float16 halves it, and every loader widens it again.
        class_names: names in the order of the classes.

    Returns:
        The weights' file.

    Raises:
        RunError: the disk refuses.
    """
    weights = stored_weights(network.module.state_dict() if tensors is None else tensors, dtype)
    with new_folder(folder, FILES) as partial:
        names = None if class_names is None else tuple(class_names)
        save_file(weights, partial / WEIGHTS, dataclasses.replace(network.card, class_names=names).to_metadata())
        write_timm_config(partial, network, class_names)
    return folder / WEIGHTS


def stored_weights(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a state dict as files keep it: on the CPU, floating point weights as `dtype`, counters as they are."""
    return stored(
        {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    )


def write_timm_config(folder: Path, network: Network, class_names: Sequence[str] | None) -> None:
    """Write config.json, as timm's loaders of local folders and of the hub read it."""
    text = json.dumps(_timm_config(network, class_names), indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _timm_config(network: Network, class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return config.json as timm's loaders of local folders and of the hub read it."""
    card = network.card
    cfg: Mapping[str, Any] = getattr(network.module, "pretrained_cfg", {})
    config: dict[str, Any] = {
        "architecture": card.architecture,
        "num_classes": card.num_classes,
        "num_features": getattr(network.module, "num_features", None),
        "pretrained_cfg": {
            **{key: cfg[key] for key in _KEPT if cfg.get(key) is not None},
            "num_classes": card.num_classes,
            "input_size": list(card.input_size),
            "mean": list(card.mean),
            "std": list(card.std),
            "interpolation": card.interpolation,
            "crop_pct": card.crop_pct,
            "crop_mode": card.crop_mode,
        },
    }
    if card.model_args:
        config["model_args"] = dict(card.model_args)
    if class_names is not None:
        config["label_names"] = list(class_names)
    return config
