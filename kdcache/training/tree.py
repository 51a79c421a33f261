"""Nested state (of optimisers, schedulers, random numbers) as JSON and a flat table of tensors: no pickle."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdcache.errors import RunError

# Tags of what JSON cannot say. A mapping of the state's own never has one of these alone as its key.
_TENSOR, _TUPLE, _ITEMS, _NUMBER = "$tensor", "$tuple", "$items", "$number"


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return a JSON value and the tensors it refers to, from which `unflatten` gives the same tree back.

    Types survive: tuples, whole-number keys, infinities, the layout (channels last) of tensors. The tensors are
    those of the tree, not copies; `stored` makes them ready for a file.

    Raises:
        RunError: something in the tree is neither plain nor a tensor.
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(tree, "", tensors), tensors


def unflatten(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the tree that `flatten` took apart. Raises KeyError where a tensor is missing."""
    if isinstance(plain, list):
        return [unflatten(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    match list(plain):
        case ["$tensor"]:
            return tensors[plain[_TENSOR]]
        case ["$tensor", "channels_last"]:
            return tensors[plain[_TENSOR]].contiguous(memory_format=torch.channels_last)
        case ["$tuple"]:
            return tuple(unflatten(part, tensors) for part in plain[_TUPLE])
        case ["$items"]:
            return {key: unflatten(value, tensors) for key, value in plain[_ITEMS]}
        case ["$number"]:
            return float(plain[_NUMBER])
    return {key: unflatten(value, tensors) for key, value in plain.items()}


def _flatten(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        while name in tensors:  # keys with dots in them make paths that look alike
            name += "'"
        tensors[name] = tree.detach()
        return {_TENSOR: name, "channels_last": True} if _is_channels_last(tree) else {_TENSOR: name}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {_NUMBER: repr(tree)}
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if isinstance(tree, tuple):
        return {_TUPLE: [_flatten(part, f"{name}.{i}", tensors) for i, part in enumerate(tree)]}
    if isinstance(tree, list):
        return [_flatten(part, f"{name}.{i}", tensors) for i, part in enumerate(tree)]
    if isinstance(tree, Mapping):
        parts = {key: _flatten(value, f"{name}.{key}".lstrip("."), tensors) for key, value in tree.items()}
        if all(isinstance(key, str) and not key.startswith("$") for key in parts):
            return parts
        if all(type(key) in (int, str) for key in parts):
            return {_ITEMS: [[key, value] for key, value in parts.items()]}
    raise RunError(
        f"The trainer's state has a {type(tree).__name__} at {name or 'its top'}, which a checkpoint cannot keep: "
        "use an optimiser whose state is made of tensors and plain values."
    )


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a safetensors file takes them: on the CPU, contiguous, sharing memory with no other of them.

    What is so already is not copied, and must stay as it is until the file is written.
    """
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().to("cpu").contiguous()
        if here.untyped_storage().data_ptr() in taken:
            here = here.clone()
        taken.add(here.untyped_storage().data_ptr())
        found[name] = here
    return found


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
