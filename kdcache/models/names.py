"""Short names for the models of the papers; every timm name works too.

Importing this module does not import torch, so that a command line can list the names at once.
"""

import difflib
import re
from dataclasses import dataclass

from kdcache.errors import ModelError, UnknownModelError
from kdcache.models.cifar_names import cifar_name


@dataclass(frozen=True)
class KnownModel:
    """A model that the papers use.

    Attributes:
        short: name that a user types.
        timm: timm's name, with the tag of its pretrained weights where the paper's teacher is meant.
        top1: accuracy of these weights on ImageNet-1k's validation set at the size that they are used at, in percent.
        source: the paper that the model, or these weights, come from.
    """

    short: str
    timm: str
    top1: float | None
    source: str


TEACHERS = (
    KnownModel("beitv2_b", "beitv2_base_patch16_224.in1k_ft_in22k_in1k", 86.5, "Peng et al. 2022, BEiT v2"),
    KnownModel("beitv2_b_in1k", "beitv2_base_patch16_224.in1k_ft_in1k", 85.6, "Peng et al. 2022, BEiT v2"),
    KnownModel("beitv2_l", "beitv2_large_patch16_224.in1k_ft_in22k_in1k", 88.4, "Peng et al. 2022, BEiT v2"),
    KnownModel("convnext_xl", "convnext_xlarge.fb_in22k_ft_in1k", 87.0, "Liu et al. 2022, ConvNeXt"),
    KnownModel("resnet152", "resnet152.a1h_in1k", 82.8, "Wightman et al. 2021, ResNet strikes back"),
    KnownModel("resnet34", "resnet34.tv_in1k", 73.3, "He et al. 2016, torchvision's weights"),
    KnownModel("resnet50_tv", "resnet50.tv_in1k", 76.2, "He et al. 2016, torchvision's weights"),
)

STUDENTS = (
    KnownModel("vit_t", "vit_tiny_patch16_224", None, "Steiner et al. 2021, How to train your ViT"),
    KnownModel("vit_s", "vit_small_patch16_224", None, "Steiner et al. 2021, How to train your ViT"),
    KnownModel("deit_t", "deit_tiny_patch16_224", None, "Touvron et al. 2021, DeiT"),
    KnownModel("deit_s", "deit_small_patch16_224", None, "Touvron et al. 2021, DeiT"),
    KnownModel("convnextv2_t", "convnextv2_tiny", None, "Woo et al. 2023, ConvNeXt V2"),
    KnownModel("mobilenetv2", "mobilenetv2_100", None, "Sandler et al. 2018, MobileNetV2"),
    KnownModel("mobilenetv1", "mobilenetv1_100", None, "Howard et al. 2017, MobileNets"),
)

#: A branch, a tag, a commit, or a pull request such as refs/pr/3.
_REVISION = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
#: How the architecture of a module that is no model of timm's begins in a cache, before "NAME@VERSION".
_OF_MODULE = "module:"
_TIMM_OF_SHORT = {known.short: known.timm for known in TEACHERS + STUDENTS}


def resolve_name(name: str) -> str:
    """Return timm's name for `name`: a short name's timm name, any timm name (with or without tag) as it is.

    The networks for CIFAR (`kdcache.models.cifar_names`) are registered with timm by this call, also in other
    processes than the one that trained them.
    `hf-hub:OWNER/MODEL` and `hf-hub:OWNER/MODEL@REVISION` pass too: only the hub knows whether there is such a model.

    Raises:
        ModelError: nobody knows the name, or the tag; the message has the nearest ones. Or it is none that the hub
            could have.
    """
    if name in _TIMM_OF_SHORT:
        return _TIMM_OF_SHORT[name]
    if name.startswith("hf-hub:"):
        _require_repository(name)
        return name
    import timm
    from timm.models import get_arch_pretrained_cfgs

    from kdcache.models import cifar

    base, _, tag = name.partition(".")
    # A user's own module may have registered a network that is called resnet20 too.
    if cifar.is_free(base) and (own := cifar_name(base)):
        if tag:
            raise ModelError(f"There are no pretrained weights of {own}, so that it has no tag {tag!r}: leave it out.")
        cifar.register(own)
        return own
    if not timm.is_model(base):
        candidates = dict.fromkeys([*_TIMM_OF_SHORT, *timm.list_models()])
        near = difflib.get_close_matches(base, candidates, n=3, cutoff=0.5)
        hint = f" The nearest names: {', '.join(near)}." if near else ""
        raise UnknownModelError(
            f"There is no model called {name!r}, neither here nor in timm.{hint} `timm.list_models()` has them all."
        )
    if tag:
        tags = [full.partition(".")[2] for full in get_arch_pretrained_cfgs(base)]
        if tag not in tags:
            raise ModelError(f"timm has {base}, but no weights of it tagged {tag!r}: use {', '.join(tags)}.")
    return name


def _require_repository(name: str) -> None:
    """Raise ModelError where a name of the hub's, or its revision, could not be one: both become parts of paths."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    repository, at, revision = name.removeprefix("hf-hub:").partition("@")
    try:
        validate_repo_id(repository)
        if at and not _REVISION.fullmatch(revision):
            raise HFValidationError
    except HFValidationError:
        raise ModelError(
            f"{name!r} is no name that the Hugging Face hub could have: give hf-hub:OWNER/MODEL, with @REVISION behind "
            "it where another than the latest is meant; for a file on this disk, give --weights FILE."
        ) from None


def architecture(name: str) -> str:
    """Return timm's architecture of `name`, without the tag of its weights.

    Raises:
        ModelError: as `resolve_name` does, or the name is the hub's: only a download tells what is behind it.
    """
    resolved = resolve_name(name)
    if resolved.startswith("hf-hub:"):
        raise ModelError(f"{name} does not say which model it is: give timm's name of the architecture.")
    return resolved.partition(".")[0]


def module_architecture(name: str, version: str) -> str:
    """Return what a cache calls the architecture of a module that is no model of timm's; neither part has an @."""
    return f"{_OF_MODULE}{name}@{version}"


def module_of(architecture: str) -> tuple[str, str] | None:
    """Return the name and version of which `module_architecture` made this text; None for an architecture of timm's."""
    if not architecture.startswith(_OF_MODULE):
        return None
    name, _, version = architecture.removeprefix(_OF_MODULE).partition("@")
    return name, version
