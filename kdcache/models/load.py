"""Construction of a timm model with the weights of a file, or those that timm knows."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants
from timm.data.config import resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from kdcache.errors import ModelError, reason
from kdcache.io.failures import cannot_write, is_of_writing, system_error
from kdcache.models.card import ModelCard
from kdcache.models.hub import find_pretrained
from kdcache.models.names import architecture, resolve_name
from kdcache.models.network import Network
from kdcache.models.weights import Weights, misfits, read_weights


def load_model(name: str | None, weights: Path | None = None, *, size: int | None = None) -> Network:
    """Load a model with weights, in eval mode, on the CPU. torch's random state stays as it was.

    Args:
        name: a short name or a timm name; None where the weights describe their model themselves.
        weights: path that `read_weights` reads; None for timm's pretrained weights for the name.
        size: pixels a side, where they should differ from those that the weights were trained at; position
            embeddings are resampled by timm.

    Raises:
        ModelError: an unknown name, weights that cannot be had or do not fit, or a size that
            the model does not take.
    """
    if weights is not None:
        given = read_weights(weights)
        name = _agreed_name(name, given)
        network = _with_weights(name, given, size)
    elif name is not None:
        resolved = resolve_name(name)
        found = find_pretrained(resolved)
        network = _pretrained(resolved, size) if found is None else _with_weights(resolved, found, size)
    else:
        raise ModelError("Neither a model's name nor weights are given: give one of them, or both.")
    network.module.eval().requires_grad_(False)
    try_out(network)
    return network


def card_of(module: nn.Module, name: str, size: int | None, model_args: Mapping[str, Any]) -> ModelCard:
    """Return the card of a timm model as built: its own preprocessing, at the size that it is used at.

    timm's larger size for tests (`test_input_size`) is left out: the size is the one of training.
    """
    data = resolve_model_data_config(module)
    channels, height, width = data["input_size"]
    return ModelCard(
        architecture=name,
        num_classes=int(module.num_classes),  # type: ignore[arg-type] # every timm model has it
        input_size=(channels, size or height, size or width),
        mean=tuple(map(float, data["mean"])),
        std=tuple(map(float, data["std"])),
        interpolation=data["interpolation"],
        crop_pct=float(data["crop_pct"]),
        crop_mode=str(data.get("crop_mode", "center")),
        model_args=dict(model_args),
    )


def size_args(name: str, size: int | None) -> dict[str, Any]:
    """Return the argument of `timm.create_model` for `size` pixels a side, where a model is built for one size."""
    cfg = get_pretrained_cfg(name)
    if size is None or cfg is None or not cfg.fixed_input_size or cfg.input_size[1:] == (size, size):
        return {}
    return {"img_size": size}


def _agreed_name(name: str | None, weights: Weights) -> str:
    if name is None:
        if weights.card is None:
            raise ModelError(f"{weights.path} does not say which model it belongs to: name the model too.")
        return architecture(weights.card.architecture)
    wanted = architecture(name)
    if weights.card is not None and weights.card.architecture != wanted:
        raise ModelError(
            f"{weights.path} holds weights of {weights.card.architecture}, not of {wanted}: "
            "give the name that belongs to them, or other weights."
        )
    return resolve_name(name)


def _with_weights(name: str, weights: Weights, size: int | None) -> Network:
    card = weights.card
    args = dict(card.model_args) if card else {}
    args |= size_args(name, size)
    classes = card.num_classes if card else _count_classes(name, weights.tensors)
    if card and classes > 1 and not any(classes in tensor.shape for tensor in weights.tensors.values()):
        # Its description has a few bytes, and what is built by it may take all of the memory.
        raise ModelError(
            f"{weights.path} is described as a model of {classes:,} classes, and no tensor in it has so many rows: "
            "its description is another model's. Get both again."
        )
    overlay: dict[str, Any] = {"state_dict": dict(weights.tensors), "num_classes": classes}
    if card:
        overlay["input_size"] = card.input_size
    try:
        module = _build(name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **args)
    except Exception as error:  # whatever timm's own conversions of foreign checkpoints stumble over
        raise _explained(name, weights, classes, args, error) from error
    # timm keeps the overlay in the model's config, and with it a second copy of every weight.
    module.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr, operator]
    if card:
        side = size or card.size
        shape = (card.input_size[0], side, side)
        return Network(module, dataclasses.replace(card, input_size=shape, model_args=args))
    return Network(module, card_of(module, architecture(name), size, args))


def _pretrained(name: str, size: int | None) -> Network:
    args = size_args(name, size)
    try:
        module = _build(name, pretrained=True, **args)
    except Exception as error:
        refused = system_error(error)
        if refused is not None and is_of_writing(refused):
            place = f"the pretrained weights of {name} to {refused.filename or constants.HF_HUB_CACHE}"
            raise ModelError(cannot_write(place, refused, "What was there before is whole")) from error
        raise ModelError(
            f"The pretrained weights of {name} could not be had ({reason(error)}): get the file "
            "elsewhere and give it with --weights FILE."
        ) from error
    built = str(module.pretrained_cfg["architecture"])  # type: ignore[index]
    return Network(module, card_of(module, built, size, args))


def _build(name: str, **args: Any) -> nn.Module:
    # Models are initialised even when weights follow; the draws must not be taken from anyone else's.
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, **args)


def _count_classes(name: str, tensors: Mapping[str, Tensor]) -> int:
    """Count the classifier's outputs in the weights; those of timm's config where its name is another."""
    cfg = get_pretrained_cfg(name)
    if cfg is None:
        return 1000
    names: Any = cfg.classifier or ()
    names = (names,) if isinstance(names, str) else names
    for classifier in names:
        if f"{classifier}.weight" in tensors:
            return int(tensors[f"{classifier}.weight"].shape[0])
    return int(cfg.num_classes)


def _explained(name: str, weights: Weights, classes: int, args: Mapping[str, Any], error: Exception) -> ModelError:
    try:
        problems = misfits(_build(name, num_classes=classes, **args).state_dict(), weights.tensors)
    except Exception:
        # The arguments themselves do not suit the model: then it is timm's own word that counts.
        problems = []
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    else:
        shown = reason(error)
    return ModelError(
        f"The weights in {weights.path} do not fit {name} with {classes} classes ({shown}): give the name "
        "that belongs to them, or other weights."
    )


def try_out(network: Network) -> None:
    """Raise ModelError unless the module, in eval mode, gives an image of its size one score for each class."""
    card = network.card
    if card.num_classes < 1:
        raise ModelError(f"{card.architecture} has no classifier: use weights that were trained to classify.")
    if card.input_size[0] not in (1, 3):
        raise ModelError(
            f"{card.architecture} takes images of {card.input_size[0]} channels, and images are given to a model as "
            "RGB or grey: choose a model of 3 channels or of 1."
        )
    try:
        with torch.inference_mode():
            output = network.module(torch.zeros(1, *card.input_size))
    except Exception as error:
        raise ModelError(
            f"{card.architecture} does not take images of {card.size}x{card.size} pixels "
            f"({reason(error)}): choose another size."
        ) from error
    if not isinstance(output, Tensor) or output.shape != (1, card.num_classes):
        raise ModelError(
            f"{card.architecture} does not give one score for each of {card.num_classes} classes: "
            "choose a plain classifier."
        )
