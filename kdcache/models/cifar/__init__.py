"""Networks for images of 32 pixels a side, registered with timm: those of the papers' tables for CIFAR.

Importing this package lets `timm.create_model` build each of `kdcache.models.cifar_names.NAMES` and `ALIASES`.
docs/networks.md lists them with their sources.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from kdcache.errors import ModelError
from kdcache.models.cifar.backbone import CifarNetwork
from kdcache.models.cifar.dense import densenet
from kdcache.models.cifar.mobile import mobilenet_v2, shufflenet_v1, shufflenet_v2
from kdcache.models.cifar.residual import resnet, wide_resnet
from kdcache.models.cifar.vgg import vgg
from kdcache.models.cifar_names import ALIASES, NAMES, PREFIX, cifar_name, wide_resnet_of

__all__ = ["default_cfgs", "is_free", "register"]

#: Mean and standard deviation of the training images of CIFAR-100.
CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_RESNET = re.compile(rf"{PREFIX}resnet(\d+)(x4)?", re.ASCII)
_DENSENET = re.compile(rf"{PREFIX}densenet(bc)?(\d+)_(\d+)", re.ASCII)
_VGG = re.compile(rf"{PREFIX}vgg(\d+)", re.ASCII)

#: What timm reads when a model of this module is registered: the configuration of each name.
default_cfgs: dict[str, Any] = {}


def is_free(name: str) -> bool:
    """Return whether no other module, such as one of the user's own, has registered a model of this name."""
    return not timm.is_model(name) or model_entrypoint(name).__module__ == __name__


def register(name: str) -> None:
    """Register with timm what `cifar_name` returned; a second call for the same name does nothing."""
    if timm.is_model(name):
        return
    builder, stages, first_conv = _builder(cifar_name(name) or name)
    default_cfgs.update(generate_default_cfgs({name: _config(first_conv)}))
    register_model(_entrypoint(name, builder, stages))


def _builder(full: str) -> tuple[Callable[..., CifarNetwork], int, str]:
    """Return what builds the network of a full name, its number of stages, and the name of its first convolution."""
    if match := _RESNET.fullmatch(full):
        return partial(resnet, int(match[1]), 64 if match[2] else 16), 3, "stem.0"
    if wide := wide_resnet_of(full):
        return partial(wide_resnet, *wide), 3, "stem.0"
    if match := _DENSENET.fullmatch(full):
        return partial(densenet, int(match[2]), int(match[3]), bottleneck=match[1] is not None), 3, "stem.0"
    if match := _VGG.fullmatch(full):
        return partial(vgg, int(match[1])), 5, "layer1.0.0"
    others: dict[str, tuple[Callable[..., CifarNetwork], int, str]] = {
        f"{PREFIX}shufflenetv1": (shufflenet_v1, 3, "stem.0"),
        f"{PREFIX}shufflenetv2": (shufflenet_v2, 3, "stem.0"),
        f"{PREFIX}mobilenetv2_050": (mobilenet_v2, 4, "stem.0"),
    }
    return others[full]


def _config(first_conv: str) -> dict[str, Any]:
    return {
        "input_size": (3, 32, 32),
        "num_classes": 100,
        "mean": CIFAR_MEAN,
        "std": CIFAR_STD,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "first_conv": first_conv,
        "classifier": "fc",
    }


def _entrypoint(name: str, builder: Callable[..., CifarNetwork], stages: int) -> Callable[..., nn.Module]:
    full = cifar_name(name) or name

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        config = resolve_pretrained_cfg(full, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        if pretrained and not (config.has_weights or config.state_dict):
            raise ModelError(
                f"There are no pretrained weights of {full}: train it, or give the weights of a file or of a run."
            )
        features = {"out_indices": tuple(range(stages)), "feature_cls": "getter"}
        model: nn.Module = build_model_with_cfg(builder, full, pretrained, feature_cfg=features, **kwargs)
        return model

    # timm registers a function by its own name and module.
    entrypoint.__name__ = entrypoint.__qualname__ = name
    return entrypoint


for _name in (*NAMES, *ALIASES):
    register(_name)
