"""AutoAugment: sequences of operations found by a search; timm's for ImageNet and torchvision's for CIFAR-10.

A sequence is written as timm writes it: for each operation its name, the probability that it is applied, its level.
"""

import numpy as np

from kdcache.errors import ConfigError
from kdcache.io.did_you_mean import did_you_mean
from kdcache.views.operations import LEVELS, Operation
from kdcache.views.schemes.levels import Direction, Levels
from kdcache.views.schemes.scheme import Scheme, Step

_Sequences = tuple[tuple[tuple[str, float, int], ...], ...]

#: "original": the ImageNet policy of Cubuk et al. 2019, "AutoAugment: Learning Augmentation Strategies from Data".
_ORIGINAL: _Sequences = (
    (("PosterizeOriginal", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("PosterizeOriginal", 0.6, 7), ("PosterizeOriginal", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("PosterizeOriginal", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("PosterizeOriginal", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)

#: "v0": the ImageNet policy of TensorFlow's EfficientNet for TPUs.
_V0: _Sequences = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)

#: "3a": three-augment of DeiT III (Touvron, Cord, Jegou 2022): solarize, grey or blur.
_THREE: _Sequences = ((("Solarize", 1.0, 5),), (("Desaturate", 1.0, 10),), (("GaussianBlurRand", 1.0, 10),))

#: "cifar10": the CIFAR-10 policy of Cubuk et al. 2019, with torchvision's levels 0 to 9.
_CIFAR10: _Sequences = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


def _increasing(sequences: _Sequences) -> _Sequences:
    """timm's "r" variants of sequences, in which a higher level of posterizing keeps fewer bits."""
    posterize = {"Posterize": "PosterizeIncreasing", "PosterizeOriginal": "PosterizeIncreasing"}
    return tuple(
        tuple((posterize.get(name, name), prob, level) for name, prob, level in sequence) for sequence in sequences
    )


_TIMM = {
    "original": _ORIGINAL,
    "originalr": _increasing(_ORIGINAL),
    "v0": _V0,
    "v0r": _increasing(_V0),
    "3a": _THREE,
}
AUTO_AUGMENTS = (*_TIMM, "cifar10")
#: The highest of torchvision's levels, which "cifar10" uses; the lowest is 0.
_LAST_LEVEL = 9


def parse_auto_augment(config: str, reference_size: int) -> Scheme:
    """Read the configuration string of timm's `auto_augment_transform`, or "cifar10".

    "cifar10" stands for torchvision's AutoAugment with the policy CIFAR10.

    Args:
        config: one of `AUTO_AUGMENTS`; timm's may be followed by the section mstd.
        reference_size: pixels a side; torchvision's translations are whole pixels at this size.

    Raises:
        ConfigError: a section is unknown or cannot be read.
    """
    name, *sections = config.split("-")
    if name == "cifar10":
        if sections:
            raise ConfigError(
                f"policy.auto_augment is {config!r}: torchvision's levels are fixed. Write cifar10 alone."
            )
        steps, sequences = _steps_of(_CIFAR10)
        return Scheme(
            steps=tuple(Step(*_torchvision(name, level, reference_size), prob, 10.0) for name, prob, level in steps),
            layers=2,
            sequences=sequences,
        )
    steps, sequences = _steps_of(_TIMM[name])
    return Scheme(
        steps=tuple(Step(*LEVELS[name], prob, float(level)) for name, prob, level in steps),
        layers=len(sequences[0]),
        sequences=sequences,
        level_std=_level_std(config, sections),
    )


def _steps_of(sequences: _Sequences) -> tuple[list[tuple[str, float, int]], tuple[tuple[int, ...], ...]]:
    """Return all different steps of some sequences, and the sequences as positions among the steps."""
    steps = list(dict.fromkeys(step for sequence in sequences for step in sequence))
    return steps, tuple(tuple(steps.index(step) for step in sequence) for sequence in sequences)


def _level_std(config: str, sections: list[str]) -> float:
    """Return the standard deviation of levels that the section mstd gives, 0 without it. Raises ConfigError."""
    if not sections:
        return 0.0
    number = sections[0].removeprefix("mstd")
    if len(sections) > 1 or number == sections[0]:
        hint = did_you_mean(sections[-1], ["mstd"])
        raise ConfigError(f"policy.auto_augment is {config!r}: AutoAugment has no section {sections[-1]!r}.{hint}")
    try:
        if number[:1].isdecimal():
            return float(number)
    except ValueError:
        pass
    raise ConfigError(f"policy.auto_augment is {config!r}: 'mstd' is followed by a number, not {number!r}.")


def _torchvision(name: str, level: int, reference_size: int) -> tuple[Operation, Levels]:
    """Return what torchvision's `AutoAugment._augmentation_space` holds for an operation at one of its levels.

    Returns: the operation, and levels whose argument at level 10 is torchvision's argument.
    """
    share = level / _LAST_LEVEL
    if name == "Posterize":
        return Operation.POSTERIZE, Levels(start=8.0 - round(4 * share))
    if name == "Solarize":
        # It inverts what reaches 255 * (1 - share), which lies between two values.
        return Operation.SOLARIZE, Levels(start=float(-(-255 * (_LAST_LEVEL - level) // _LAST_LEVEL)))
    if name in ("TranslateX", "TranslateY"):
        pixels = int(150 / 331 * reference_size * share)
        operation = Operation.TRANSLATE_X if name == "TranslateX" else Operation.TRANSLATE_Y
        return operation, Levels(span=pixels / reference_size, direction=Direction.EITHER)
    if name in ("ShearX", "ShearY", "Rotate"):
        operation, levels = LEVELS[name]
        return operation, Levels(span=_linspace(levels.span, level), direction=Direction.EITHER)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        operation, _ = LEVELS[name]
        return operation, Levels(start=1.0, span=_linspace(0.9, level), direction=Direction.EITHER)
    return LEVELS[name]


def _linspace(last: float, level: int) -> float:
    """Return the entry `level` of `torch.linspace(0, last, 10)`: in single precision, counted from the nearer end."""
    end = np.float32(last)
    step = end / np.float32(_LAST_LEVEL)
    return float(step * np.float32(level) if 2 * level <= _LAST_LEVEL else end - step * np.float32(_LAST_LEVEL - level))
