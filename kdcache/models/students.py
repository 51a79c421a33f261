"""Students: timm models from scratch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import timm
import torch

from kdcache.errors import ModelError, reason
from kdcache.models.card import require_model_args
from kdcache.models.load import card_of, size_args, try_out
from kdcache.models.names import architecture
from kdcache.models.network import Network


def create_student(
    name: str,
    *,
    num_classes: int,
    size: int,
    seed: int,
    drop_path: float = 0.0,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Network:
    """Create a model with fresh weights, in training mode, on the CPU.

    The weights depend on the arguments alone: they are drawn under `seed`, and torch's random state stays
    as it was.

    Args:
        name: a short name or a timm name; a tag is ignored.
        num_classes: number of outputs of its classifier.
        size: pixels a side that it is trained at; models built for one size are built for this one.
        seed: seed of the weights.
        drop_path: rate of stochastic depth (Huang et al. 2016).
        crop_pct: share of the image that the evaluation transform keeps; None: timm's own for the model.
        interpolation: filter of the evaluation transform; None: timm's own for the model.
        kwargs: further arguments of `timm.create_model`.

    Raises:
        ModelError: an unknown name, or a size or arguments that the model does not take.
    """
    arch = architecture(name)
    args = {**size_args(arch, size), **(kwargs or {})}
    try:
        require_model_args(args)  # timm would unpickle whatever file `checkpoint_path` names
    except ValueError as error:
        raise ModelError(f"student.kwargs cannot be used: {error}. Leave it out.") from error
    rates: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed every GPU as well.
        torch.default_generator.manual_seed(seed)
        try:
            module = timm.create_model(arch, pretrained=False, num_classes=num_classes, **rates, **args)
        except Exception as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise ModelError(
                    f"{arch} with {num_classes:,} classes does not fit into this machine's memory: use a smaller "
                    "student or, if the data has fewer classes, correct its highest label, from which they are counted."
                ) from error
            raise ModelError(
                f"{arch} cannot be built for {size}x{size} pixels, {num_classes} classes and {rates | args} "
                f"({reason(error)}): change student.size, student.drop_path or student.kwargs."
            ) from error
    card = card_of(module, arch, size, args)
    card = dataclasses.replace(
        card,
        crop_pct=card.crop_pct if crop_pct is None else crop_pct,
        interpolation=card.interpolation if interpolation is None else interpolation,
    )
    network = Network(module.eval(), card)
    try_out(network)
    network.module.train()
    return network
