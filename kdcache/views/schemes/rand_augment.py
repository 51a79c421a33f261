"""RandAugment (Cubuk et al. 2020), read from timm's configuration strings."""

import re
from collections.abc import Callable
from math import inf
from typing import Any

from kdcache.errors import ConfigError
from kdcache.io.did_you_mean import did_you_mean
from kdcache.views.operations import LEVELS
from kdcache.views.schemes.scheme import Scheme, Step

_MAX_LAYERS = 16

_PLAIN = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
_INCREASING = tuple(f"{name}Increasing" if f"{name}Increasing" in LEVELS else name for name in _PLAIN)
_THREE_AUGMENT = ("SolarizeIncreasing", "Desaturate", "GaussianBlur")
#: timm's sets of transforms: names, with weights in proportion where they are drawn without replacement.
_WEIGHTED = {
    "Rotate": 60,
    **dict.fromkeys(("ShearX", "ShearY"), 40),
    **dict.fromkeys(("TranslateXRel", "TranslateYRel"), 20),
    **dict.fromkeys(("ColorIncreasing", "SharpnessIncreasing", "AutoContrast"), 5),
    **dict.fromkeys(("SolarizeIncreasing", "SolarizeAdd", "ContrastIncreasing", "BrightnessIncreasing"), 1),
    **dict.fromkeys(("Equalize", "PosterizeIncreasing", "Invert"), 1),
}
_THREE_AUGMENT_WEIGHTED = {
    **dict.fromkeys(_THREE_AUGMENT, 6),
    "Rotate": 3,
    **dict.fromkeys(("ShearX", "ShearY"), 2),
    **dict.fromkeys(("PosterizeIncreasing", "AutoContrast", "ColorIncreasing", "SharpnessIncreasing"), 1),
    **dict.fromkeys(("ContrastIncreasing", "BrightnessIncreasing", "Equalize", "Invert"), 1),
}
_SETS: dict[str, tuple[str, ...] | dict[str, int]] = {
    "weights": _WEIGHTED,
    "3a": _THREE_AUGMENT,
    "3aw": _THREE_AUGMENT_WEIGHTED,
}
#: What timm called w0 before version 0.9: weights of the plain or increasing set, which are not those of "tweights".
_FORMER_WEIGHTS = (5, 1, 0, 60, 0, 1, 1, 5, 1, 1, 5, 40, 40, 20, 20)

#: For each section: how its text is read, which values are valid, and the clause of an error that says so.
_SECTIONS: dict[str, tuple[Callable[[str], Any], Callable[[Any], bool], str]] = {
    "m": (int, lambda level: level >= 0, "a whole number: the level, 0 to 10"),
    "n": (int, lambda layers: 1 <= layers <= _MAX_LAYERS, f"a whole number of layers, 1 to {_MAX_LAYERS}"),
    "p": (float, lambda prob: prob <= 1, "a probability, 0 to 1"),
    "mstd": (float, lambda std: True, "a number: the level's deviation, over 100 for uniform levels"),
    "mmax": (int, lambda level: level >= 1, "a whole number: the highest level"),
    "inc": (int, lambda increasing: increasing <= 1, "0 or 1"),
    "w": (int, lambda index: index == 0, "0"),
}


def parse_rand_augment(config: str) -> Scheme:
    """Read the configuration string of timm's `rand_augment_transform`.

    Args:
        config: "rand" with the sections m, n, p, mstd, mmax, inc, t and the former w0, in any order.

    Raises:
        ConfigError: a section is unknown (timm passes over some), is given twice or is out of its range.
    """
    read: dict[str, Any] = {}
    for section in config.split("-")[1:]:
        key, value = _read(config, section)
        if key in read:
            raise ConfigError(f"policy.auto_augment is {config!r}: it gives {key!r} twice. Keep one of them.")
        read[key] = value
    names, weights = _choices(config, read)
    layers = read.get("n", 2)
    drawable = sum(weight > 0 for weight in weights)
    if weights and layers > drawable:
        raise ConfigError(
            f"policy.auto_augment is {config!r}: its {drawable} weighted operations are drawn without replacement, "
            f"so n is at most {drawable}."
        )
    std = read.get("mstd", 0.0)
    return Scheme(
        steps=tuple(Step(*LEVELS[name], prob=read.get("p", 0.5), level=float(read.get("m", 10))) for name in names),
        layers=layers,
        weights=weights,
        level_std=inf if std > 100 else std,
        max_level=float(read.get("mmax", 10)),
    )


def _read(config: str, section: str) -> tuple[str, Any]:
    """Return the key and the value of a section. Raises ConfigError."""
    if section.startswith("t"):
        if section[1:] not in _SETS:
            hint = did_you_mean(section, [f"t{name}" for name in _SETS])
            raise ConfigError(f"policy.auto_augment is {config!r}: there is no set of operations {section!r}.{hint}")
        return "t", section[1:]
    match = re.fullmatch(r"([a-z]*)(.*)", section, re.DOTALL)
    key, text = match.groups() if match else ("", section)
    if key not in _SECTIONS:
        hint = did_you_mean(key, [*_SECTIONS, "t"])
        raise ConfigError(f"policy.auto_augment is {config!r}: RandAugment has no section {section!r}.{hint}")
    convert, valid, meaning = _SECTIONS[key]
    try:
        value = convert(text) if text[:1].isdecimal() else None
    except ValueError:
        value = None
    if value is None or not valid(value):
        raise ConfigError(f"policy.auto_augment is {config!r}: {key!r} is followed by {meaning}, not {text!r}.")
    return key, value


def _choices(config: str, read: dict[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the operations and their weights; no weights where operations are drawn with replacement."""
    plain = _INCREASING if read.get("inc") else _PLAIN
    if "t" in read and "w" in read:
        raise ConfigError(f"policy.auto_augment is {config!r}: give either a set of operations (t...) or w0.")
    if "w" in read:
        return plain, _FORMER_WEIGHTS
    chosen = _SETS[read["t"]] if "t" in read else plain
    return (tuple(chosen), tuple(chosen.values())) if isinstance(chosen, dict) else (chosen, ())
