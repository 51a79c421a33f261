"""Names of the networks for images of 32 pixels a side that the CIFAR tables of the papers use, and timm lacks.

Importing this module does not import torch. `kdcache.models.cifar` registers the networks with timm.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from kdcache.errors import UnknownModelError

#: Every name begins with this: timm has networks for ImageNet that are called vgg13 and mobilenetv2_050.
PREFIX = "cifar_"
#: Depths and widths that are registered at once; `wide_resnet_of` tells which others can be.
WIDE_RESNETS = (
    (16, 1),
    (16, 2),
    (16, 4),
    (16, 8),
    (22, 2),
    (22, 4),
    (28, 2),
    (28, 4),
    (28, 10),
    (40, 1),
    (40, 2),
    (40, 4),
)
#: No paper goes beyond; a name in the header of a file must not take all of the memory.
MAX_WIDE_DEPTH, MAX_WIDEN = 202, 20

NAMES = (
    *(f"{PREFIX}resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *(f"{PREFIX}resnet{depth}x4" for depth in (8, 32)),
    *(f"{PREFIX}wrn_{depth}_{widen}" for depth, widen in WIDE_RESNETS),
    *(f"{PREFIX}densenet{depth}_{growth}" for depth in (40, 100) for growth in (12, 24, 48)),
    *(f"{PREFIX}densenetbc{depth}_{growth}" for depth, growth in ((100, 12), (190, 40), (250, 24))),
    *(f"{PREFIX}vgg{depth}" for depth in (8, 11, 13, 16, 19)),
    *(f"{PREFIX}shufflenetv1", f"{PREFIX}shufflenetv2", f"{PREFIX}mobilenetv2_050"),
)
#: What timm calls networks for ImageNet: here only the name with the prefix means ours.
_TAKEN = {"vgg11", "vgg13", "vgg16", "vgg19", "mobilenetv2_050"}
#: Each short name with the full one: the full name without its prefix, and what RepDistiller, the code of CRD (Tian et
#: al. 2020), calls the network. Its MobileNetV2 is left out: "mobilenetv2" is one for ImageNet.
ALIASES: Mapping[str, str] = MappingProxyType(
    {name.removeprefix(PREFIX): name for name in NAMES if name.removeprefix(PREFIX) not in _TAKEN}
    | {"ShuffleV1": f"{PREFIX}shufflenetv1", "ShuffleV2": f"{PREFIX}shufflenetv2"}
    | {"mobile_half": f"{PREFIX}mobilenetv2_050"}
)
_WIDE = re.compile(rf"(?:{PREFIX})?wrn_([1-9]\d*)_([1-9]\d*)", re.ASCII)


def cifar_name(name: str) -> str | None:
    """Return the full name of the network for CIFAR that `name` means; None where it means none.

    Raises:
        UnknownModelError: the name of a wide residual network that cannot be built.
    """
    known = ALIASES.get(name, name)
    if known in NAMES:
        return known
    wide = wide_resnet_of(name)
    return None if wide is None else f"{PREFIX}wrn_{wide[0]}_{wide[1]}"


def wide_resnet_of(name: str) -> tuple[int, int] | None:
    """Return depth and widening of the wide residual network that `name` means; None where it is no name of one.

    Raises:
        UnknownModelError: a depth that is not 6 n + 4, or more than any paper has.
    """
    match = _WIDE.fullmatch(name)
    if match is None:
        return None
    if any(len(digits) > len(str(MAX_WIDE_DEPTH)) for digits in match.groups()):
        depth, widen = MAX_WIDE_DEPTH + 1, MAX_WIDEN + 1
    else:
        depth, widen = map(int, match.groups())
    if depth % 6 != 4 or not 10 <= depth <= MAX_WIDE_DEPTH or widen > MAX_WIDEN:
        raise UnknownModelError(
            f"There is no wide residual network {name!r}: the depth is 6 n + 4, from 10 to {MAX_WIDE_DEPTH}, and the "
            f"factor of its width 1 to {MAX_WIDEN}. Give such a name, as wrn_40_2."
        )
    return depth, widen
