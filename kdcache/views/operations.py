"""The table of operations: one row for each operation that a plan can ask for after the crop.

To add an operation, write

1. a row here, with a code that no row has had before;
2. its two kernels under the same name in one module of `kdcache.views.pixels.kernels` (`tables` where each value of a
   channel becomes another value, `warp` where pixels move, `blur` and `colours` for the rest).

Every part of a row is required, and `kdcache.views.pixels.kernels.registry` refuses a row without kernels and kernels
without a row: what is left out fails when the modules are imported. Tests of kernels, descriptions and levels read this
table, so they cover a new row without a change. A policy uses an operation as soon as a scheme of
`kdcache.views.schemes` names it.

Pixels are 8-bit RGB before and after each operation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, unique
from math import inf
from typing import Any

from kdcache.views.schemes.levels import Direction, Levels

#: Red, green and blue in 0..255.
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class OperationSpec:
    """A row of the table: all that is known of an operation, but for its kernels.

    Geometry is relative to the image, so that one plan serves every image size.

    Attributes:
        code: number that stands for the operation in `Plan.op`, 0 to 255. It is part of the format: no code is ever
            given to another operation.
        is_warp: whether it moves pixels. A warp interpolates, as `Plan.op_cubic` says, and fills what it uncovers.
        argument_range: smallest and largest argument (`Plan.magnitude`) that the kernels take; infinite where any
            number will do.
        levels: names by which lists in `kdcache.views.schemes` draw the operation, each with the argument and the sign
            that its levels stand for: timm's, or one of its own; empty where no list does.
        describe: the text for an argument, in the argument's own unit, such as "rotate -12.5 degrees".
        samples: arguments that the tests of the kernels try: both ends of the range, both ends of what policies draw,
            values between them and some beyond.
    """

    code: int
    is_warp: bool
    argument_range: tuple[float, float]
    levels: Mapping[str, Levels]
    describe: Callable[[float], str]
    samples: tuple[float, ...]


#: The range of an operation that takes no argument; its argument in a plan is 0.
_NO_ARGUMENT = (0.0, 0.0)
_ANY_NUMBER = (-inf, inf)
#: The range of a factor of blending: 0 is the other image, 1 this one, and more than 1 goes beyond.
_FACTOR = (0.0, inf)

#: timm's levels of a factor: 0.1 to 1.9, or ("Increasing") further away from 1 on either side.
_FACTOR_LEVELS = Levels(start=0.1, span=1.8)
_FACTOR_LEVELS_INCREASING = Levels(start=1.0, span=0.9, direction=Direction.EITHER, least=0.1)

_SHEARS = (-0.9, -0.3, -0.11, 0.0, 0.21, 0.3)
_TRANSLATIONS = (-1.5, -0.45, -0.1, 0.0, 0.123, 0.45)
_FACTORS = (0.0, 0.1, 0.64, 1.0, 1.333, 1.9, 2.5)


def _describe_translation(positive: str, negative: str) -> Callable[[float], str]:
    return lambda share: f"move {abs(share):.0%} {positive if share >= 0 else negative}"


@unique
class Operation(IntEnum):
    """An operation, which is the number that stands for it in a plan; `spec` is its row of the table."""

    spec: OperationSpec

    # `Any`, because a type checker takes this signature for that of `Operation(code)`, which looks a row up.
    def __new__(cls, spec: Any) -> "Operation":
        member = int.__new__(cls, spec.code)
        member._value_ = spec.code
        member.spec = spec
        return member

    #: Nothing is done. It is the operation of a layer that is not applied, and needs no kernel.
    IDENTITY = OperationSpec(
        code=0,
        is_warp=False,
        argument_range=_NO_ARGUMENT,
        levels={},
        describe="unchanged".format,
        samples=(0.0,),
    )
    #: Each channel is stretched to 0..255.
    AUTO_CONTRAST = OperationSpec(
        code=1,
        is_warp=False,
        argument_range=_NO_ARGUMENT,
        levels={"AutoContrast": Levels()},
        describe="auto-contrast".format,
        samples=(0.0,),
    )
    #: The histogram of each channel is flattened.
    EQUALIZE = OperationSpec(
        code=2,
        is_warp=False,
        argument_range=_NO_ARGUMENT,
        levels={"Equalize": Levels()},
        describe="equalize".format,
        samples=(0.0,),
    )
    #: Each value becomes 255 minus the value.
    INVERT = OperationSpec(
        code=3,
        is_warp=False,
        argument_range=_NO_ARGUMENT,
        levels={"Invert": Levels()},
        describe="invert".format,
        samples=(0.0,),
    )
    #: The image turns about its centre, counter-clockwise; the argument is the angle in degrees.
    ROTATE = OperationSpec(
        code=4,
        is_warp=True,
        argument_range=_ANY_NUMBER,
        levels={"Rotate": Levels(span=30.0, direction=Direction.EITHER)},
        describe="rotate {:+.1f} degrees".format,
        samples=(-180.0, -135.0, -30.0, -17.3, 0.0, 0.01, 9.0, 30.0, 90.0),
    )
    #: The upper bits of each value are kept; the argument is how many.
    POSTERIZE = OperationSpec(
        code=5,
        is_warp=False,
        argument_range=(0.0, 8.0),
        levels={
            "Posterize": Levels(span=4.0, whole=True, most=8.0),
            # Levels above 10 (mmax) would ask for fewer than 0 bits: the distance ends at 4, so that 0 bits remain.
            "PosterizeIncreasing": Levels(start=4.0, span=4.0, direction=Direction.DOWN, whole=True, most=4.0),
            "PosterizeOriginal": Levels(start=4.0, span=4.0, whole=True, most=4.0),
        },
        describe=lambda bits: f"posterize to {bits:.0f} bit{'s' * (bits != 1)}",
        samples=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
    )
    #: Values from a threshold on are inverted; the argument is the threshold.
    SOLARIZE = OperationSpec(
        code=6,
        is_warp=False,
        argument_range=(0.0, 256.0),
        levels={
            "Solarize": Levels(span=256.0, whole=True, most=256.0),
            "SolarizeIncreasing": Levels(start=256.0, span=256.0, direction=Direction.DOWN, whole=True, most=256.0),
        },
        describe="solarize from {:.0f}".format,
        samples=(0.0, 1.0, 77.0, 128.0, 255.0, 256.0),
    )
    #: Values below 128 grow, up to 255; the argument is by how much.
    SOLARIZE_ADD = OperationSpec(
        code=7,
        is_warp=False,
        argument_range=(0.0, 128.0),
        levels={"SolarizeAdd": Levels(span=110.0, whole=True, most=128.0)},
        describe="solarize, add {:.0f}".format,
        samples=(0.0, 1.0, 33.0, 110.0, 128.0),
    )
    #: The image is blended with its grey version; the argument is the factor (0 is grey).
    COLOR = OperationSpec(
        code=8,
        is_warp=False,
        argument_range=_FACTOR,
        levels={
            "Color": _FACTOR_LEVELS,
            "ColorIncreasing": _FACTOR_LEVELS_INCREASING,
            "Desaturate": Levels(start=0.5, span=0.5, direction=Direction.DOWN, most=0.5),
        },
        describe="colour x {:.2f}".format,
        samples=_FACTORS,
    )
    #: The image is blended with its mean grey; the argument is the factor (0 is one grey).
    CONTRAST = OperationSpec(
        code=9,
        is_warp=False,
        argument_range=_FACTOR,
        levels={"Contrast": _FACTOR_LEVELS, "ContrastIncreasing": _FACTOR_LEVELS_INCREASING},
        describe="contrast x {:.2f}".format,
        samples=_FACTORS,
    )
    #: The image is blended with black; the argument is the factor (0 is black).
    BRIGHTNESS = OperationSpec(
        code=10,
        is_warp=False,
        argument_range=_FACTOR,
        levels={"Brightness": _FACTOR_LEVELS, "BrightnessIncreasing": _FACTOR_LEVELS_INCREASING},
        describe="brightness x {:.2f}".format,
        samples=_FACTORS,
    )
    #: The image is blended with its smoothed version; the argument is the factor (0 is smoothed).
    SHARPNESS = OperationSpec(
        code=11,
        is_warp=False,
        argument_range=_FACTOR,
        levels={"Sharpness": _FACTOR_LEVELS, "SharpnessIncreasing": _FACTOR_LEVELS_INCREASING},
        describe="sharpness x {:.2f}".format,
        samples=_FACTORS,
    )
    #: Pixels move along the rows, about the upper left corner; the argument is pixels for each pixel downwards.
    SHEAR_X = OperationSpec(
        code=12,
        is_warp=True,
        argument_range=_ANY_NUMBER,
        levels={"ShearX": Levels(span=0.3, direction=Direction.EITHER)},
        describe="shear rows {:+.2f}".format,
        samples=_SHEARS,
    )
    #: Pixels move along the columns, about the upper left corner; the argument is pixels for each pixel to the right.
    SHEAR_Y = OperationSpec(
        code=13,
        is_warp=True,
        argument_range=_ANY_NUMBER,
        levels={"ShearY": Levels(span=0.3, direction=Direction.EITHER)},
        describe="shear columns {:+.2f}".format,
        samples=_SHEARS,
    )
    #: The image moves along the rows; the argument is a share of its width, and a positive one moves it to the left.
    TRANSLATE_X = OperationSpec(
        code=14,
        is_warp=True,
        argument_range=_ANY_NUMBER,
        levels={"TranslateXRel": Levels(span=0.45, direction=Direction.EITHER)},
        describe=_describe_translation(positive="left", negative="right"),
        samples=_TRANSLATIONS,
    )
    #: The image moves along the columns; the argument is a share of its height, and a positive one moves it up.
    TRANSLATE_Y = OperationSpec(
        code=15,
        is_warp=True,
        argument_range=_ANY_NUMBER,
        levels={"TranslateYRel": Levels(span=0.45, direction=Direction.EITHER)},
        describe=_describe_translation(positive="up", negative="down"),
        samples=_TRANSLATIONS,
    )
    #: The image is smoothed; the argument is the Gaussian's standard deviation in pixels, Pillow's "radius".
    GAUSSIAN_BLUR = OperationSpec(
        code=16,
        is_warp=False,
        argument_range=(0.0, inf),
        levels={
            "GaussianBlur": Levels(start=0.1, span=1.9, most=1.9),
            "GaussianBlurRand": Levels(start=0.1, span=2.0, direction=Direction.BETWEEN, most=2.0),
        },
        describe="blur {:.1f} pixels".format,
        samples=(0.0, 0.1, 0.5, 1.0, 1.7, 2.0, 6.0),
    )
    #: The hue turns; the argument is a share of a full turn, which the kernels cut to whole steps of 1/255.
    HUE = OperationSpec(
        code=17,
        is_warp=False,
        argument_range=(-0.5, 0.5),
        levels={},
        describe=lambda share: f"turn hue {360.0 * share:+.0f} degrees",
        samples=(-0.5, -0.1, -0.001, 0.0, 0.02, 0.2, 0.5),
    )


def _levels_by_name() -> dict[str, tuple[Operation, Levels]]:
    """Return timm's names, with operation and levels of each. Raises ValueError for a table that contradicts itself."""
    found: dict[str, tuple[Operation, Levels]] = {}
    for operation in Operation:
        spec = operation.spec
        low, high = spec.argument_range
        if not 0 <= spec.code <= 255:
            raise ValueError(f"The code of operation {operation.name} is {spec.code}; plans hold 0 to 255.")
        ends = {end for end in spec.argument_range if abs(end) != inf}
        if not spec.samples or not ends <= {*spec.samples} or not all(low <= each <= high for each in spec.samples):
            raise ValueError(
                f"The samples of operation {operation.name} are {spec.samples}: they must lie in its argument_range, "
                f"{low:g} to {high:g}, and include each end that is finite."
            )
        for name, levels in spec.levels.items():
            if name in found:
                raise ValueError(
                    f"The name {name} stands in two rows, {found[name][0].name} and {operation.name}. Keep one."
                )
            found[name] = (operation, levels)
    return found


#: timm's name -> the operation and what its levels mean, for `kdcache.views.schemes`.
LEVELS = _levels_by_name()
WARPS = tuple(operation for operation in Operation if operation.spec.is_warp)
