"""A policy: the distribution that augmentations are drawn from, as a frozen value that is its own identity."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.errors import ConfigError

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Policy:
    """What a view may look like. Names and meanings are timm's.

    Its JSON form leaves out what has its default, so that a field added later does not orphan caches written before:
    a default, once released, never changes.

    Attributes:
        crop_scale: range of the crop's area, as a share of the image's.
        crop_ratio: range of the crop's width / height.
        hflip: probability of a horizontal flip.
        interpolation: of the resize to the model's input size, antialiased: "bilinear" or "bicubic".
        mixup: alpha of mixup's Beta(alpha, alpha); 0 turns it off.
        cutmix: alpha of cutmix's Beta(alpha, alpha); 0 turns it off.
        cutmix_minmax: range of the cut box's sides as shares of the picture's, in place of the Beta.
        mix_prob: probability that a pair is mixed at all.
        switch_prob: probability of cutmix where both are on.
        reference_size: pixels a side at which cut boxes and their weights are fixed; the usual training size.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    interpolation: str = "bilinear"
    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_minmax: tuple[float, float] | None = None
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    reference_size: int = 224

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio", "cutmix_minmax"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1] < math.inf:
                raise ConfigError(f"policy.{name} is {pair}: give two numbers, 0 < low <= high.")
        for name in ("crop_scale", "cutmix_minmax"):
            pair = getattr(self, name)
            if pair is not None and pair[1] > 1:
                raise ConfigError(f"policy.{name} is {pair}: shares of the picture end at 1.")
        for name in ("hflip", "mix_prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"policy.{name} is {getattr(self, name)}: a probability lies in 0..1.")
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            if alpha != 0 and not 1e-3 <= alpha < math.inf:
                raise ConfigError(f"policy.{name} is {alpha}: alpha is 0 (off) or at least 0.001.")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f"policy.interpolation is {self.interpolation!r}: use {' or '.join(INTERPOLATIONS)}.")
        if not 8 <= self.reference_size <= 4096:
            raise ConfigError(f"policy.reference_size is {self.reference_size}: give pixels a side, 8 to 4096.")

    @property
    def mixes(self) -> bool:
        """Whether any pair is mixed."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None)

    def to_json(self) -> dict[str, Any]:
        """The canonical form: what differs from the defaults, as plain JSON values."""
        out: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                # 1 and 1.0 are the same policy, so they must be the same text.
                if isinstance(value, tuple):
                    value = [float(part) for part in value]
                out[field.name] = float(value) if isinstance(field.default, float) else value
        return out

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Policy":
        """The policy that `values` describe; ConfigError names an unknown key, with the nearest, or a wrong type."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        read: dict[str, Any] = {}
        for name, value in values.items():
            if name not in fields:
                near = difflib.get_close_matches(str(name), fields, n=1)
                hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(fields)}."
                raise ConfigError(f"A policy has no field {name!r}.{hint}")
            read[name] = _read(name, value, fields[name].default)
        return cls(**read)


def _read(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, str):
        if isinstance(value, str):
            return value
    elif isinstance(default, tuple) or default is None:
        if value is None and default is None:
            return None
        if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
            return (float(value[0]), float(value[1]))
    elif isinstance(default, float):
        if _is_number(value):
            return float(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ConfigError(f"policy.{name} is {value!r}: give a value like {default!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
