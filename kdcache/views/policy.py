"""A policy: the distribution that augmentations are drawn from, as a frozen value that is its own identity."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.errors import ConfigError
from kdcache.io.did_you_mean import did_you_mean
from kdcache.views.schemes.parsing import parse_scheme

FILTERS = ("bilinear", "bicubic")
INTERPOLATIONS = (*FILTERS, "random")
WARP_INTERPOLATIONS = ("", "nearest")
CROPS = ("resized", "centre", "padded", "evaluation")
ERASE_MODES = ("const", "rand", "pixel")
_CHOICES = {
    "crop": CROPS,
    "interpolation": INTERPOLATIONS,
    "erase_mode": ERASE_MODES,
    "warp_interpolation": WARP_INTERPOLATIONS,
}
_LENGTHS = {2: "two numbers", 3: "three numbers", 4: "one number, three or four"}


@dataclass(frozen=True)
class Policy:
    """The distribution of the augmentations of a view. Names and meanings of the fields are timm's.

    The JSON form leaves out every field that has its default. So a field that is added later leaves older caches
    valid, and a default that has been released never changes.

    Attributes:
        crop: kind of crop: "resized" (timm's RandomResizedCrop), "centre" (the central square, the same for every
            view), "padded" (the central square, shifted by up to `pad` pixels, as in CIFAR recipes), or "evaluation"
            (timm's evaluation transform in its crop mode "center", which resizes first and crops then; the same for
            every view).
        crop_scale: range of a resized crop's area, as a share of the image's.
        crop_ratio: range of a resized crop's width / height.
        crop_pct: side of the central square, as a share of the image's shorter side. For "evaluation" it is timm's:
            the shorter side is resized to floor(size / crop_pct) pixels, and the central square is cut out.
        pad: largest shift of a padded crop along each axis, in pixels at the reference size; the uncovered part is
            black.
        hflip: probability of a horizontal flip.
        interpolation: filter of the antialiased resize to the model's input size, and of operations that warp:
            "bilinear", "bicubic", or "random" (one of the two is drawn each time).
        warp_interpolation: filter of operations that warp, if it is another one: "nearest", which is torchvision's
            default.
        auto_augment: timm's configuration string: "rand-m9-mstd0.5-inc1", "original", "v0", "3a", ..., or "cifar10",
            torchvision's AutoAugment policy for CIFAR-10 (whose own `warp_interpolation` is "nearest" and whose `fill`
            is black); empty for none.
        color_jitter: amounts of torchvision's ColorJitter, which comes after `auto_augment`: brightness, contrast,
            saturation, hue.
        color_jitter_prob: probability that colour jitter is applied at all.
        fill: colour of what a warp uncovers, and of erased boxes, in 0..255. timm takes the data set's mean, rounded
            for warps, as here, and unrounded for boxes: (123.675, 116.28, 103.53) gives both.
        erase_prob: probability of timm's RandomErasing.
        erase_mode: "const" (`fill`), "rand" (one random colour a box) or "pixel" (one a pixel).
        erase_count: largest number of boxes erased in one image; the number is drawn from 1 to this.
        erase_std: standard deviation of random colours around `fill`, in 0..255; timm takes the data set's.
        repeats: number of views that share one order, for repeated augmentation (Hoffer et al. 2020): an epoch shows
            that many views of each of its images, and fewer images.
        mixup: alpha of mixup's Beta(alpha, alpha); 0 turns it off.
        cutmix: alpha of cutmix's Beta(alpha, alpha); 0 turns it off.
        cutmix_minmax: range of the cut box's sides, as shares of the image's side; None draws the area from the Beta.
        mix_prob: probability that a pair is mixed at all.
        switch_prob: probability of cutmix where mixup and cutmix are both on.
        reference_size: pixels a side at which boxes, shifts and mixing weights are fixed; the usual training size.
    """

    crop: str = "resized"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_pct: float = 1.0
    pad: int = 0
    hflip: float = 0.5
    interpolation: str = "bilinear"
    auto_augment: str = ""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    color_jitter_prob: float = 1.0
    fill: tuple[float, float, float] = (124.0, 116.0, 104.0)
    erase_prob: float = 0.0
    erase_mode: str = "const"
    erase_count: int = 1
    erase_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    repeats: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_minmax: tuple[float, float] | None = None
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    reference_size: int = 224
    warp_interpolation: str = ""

    def __post_init__(self) -> None:
        faults = [*self._faults()]
        if faults:
            raise ConfigError(" ".join(faults))
        parse_scheme(self.auto_augment, self.reference_size)

    def _faults(self) -> Iterator[str]:
        """A sentence for each field whose value has the right type and is not valid."""
        for name in ("crop_scale", "crop_ratio", "cutmix_minmax"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1] < math.inf:
                yield f"policy.{name} is {pair}: give two numbers, 0 < low <= high."
            elif pair is not None and name != "crop_ratio" and pair[1] > 1:
                yield f"policy.{name} is {pair}: shares of the image end at 1."
        for name in ("hflip", "color_jitter_prob", "erase_prob", "mix_prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                yield f"policy.{name} is {getattr(self, name)}: a probability lies in 0..1."
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            if alpha != 0 and not 1e-3 <= alpha < math.inf:
                yield f"policy.{name} is {alpha}: alpha is 0 (off) or at least 0.001."
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                yield f"policy.{name} is {getattr(self, name)!r}: {_one_of(choices)}."
        if not 8 <= self.reference_size <= 4096:
            yield f"policy.reference_size is {self.reference_size}: give pixels a side, 8 to 4096."
        if not 0 < self.crop_pct <= 1:
            yield f"policy.crop_pct is {self.crop_pct}: give a share of the shorter side, over 0 to 1."
        if self.crop in CROPS and (
            (self.crop == "padded") != (self.pad > 0) or not 0 <= self.pad <= self.reference_size
        ):
            yield (
                f"policy.pad is {self.pad} and policy.crop {self.crop!r}: a padded crop needs pad, 1 to reference_size "
                "pixels, and no other crop has it."
            )
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5 or not max(self.color_jitter) < math.inf:
            yield (
                f"policy.color_jitter is {self.color_jitter}: give brightness, contrast, saturation and hue, each at "
                "least 0, the hue at most 0.5."
            )
        for name in ("fill", "erase_std"):
            if not all(0 <= part <= 255 for part in getattr(self, name)):
                yield f"policy.{name} is {getattr(self, name)}: give three values in 0..255."
        for name in ("erase_count", "repeats"):
            if not 1 <= getattr(self, name) <= 64:
                yield f"policy.{name} is {getattr(self, name)}: give a whole number from 1 to 64."

    @property
    def is_fixed(self) -> bool:
        """Whether nothing is drawn, so that all views are equal."""
        return not (
            self.crop not in ("centre", "evaluation")
            or 0 < self.hflip < 1
            or self.interpolation == "random"
            or self.auto_augment
            or (any(self.color_jitter) and self.color_jitter_prob > 0)
            or self.erase_prob > 0
            or self.mixes
        )

    @property
    def mixes(self) -> bool:
        """Whether any pair is mixed."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None)

    def to_json(self) -> dict[str, Any]:
        """The canonical form of the policy: the fields that differ from their defaults, as plain JSON values."""
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
    def from_json(cls, values: Mapping[str, Any], also: tuple[str, ...] = ()) -> "Policy":
        """Read a policy from its JSON form.

        Args:
            values: fields by name.
            also: other keys that a user could have meant by an unknown one.

        Raises:
            ConfigError: there are unknown keys, each named with the nearest one, or values that are not valid.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        read: dict[str, Any] = {}
        faults = []
        for name, value in values.items():
            if name not in fields:
                faults.append(f"policy.{name} is no field.{did_you_mean(str(name), [*fields, *also])}")
                continue
            try:
                read[name] = _read(name, value, fields[name].default)
            except TypeError as wanted:
                faults.append(f"policy.{name} is {value!r}: {wanted}.")
        if faults:
            raise ConfigError(" ".join(faults))
        return cls(**read)


def _read(name: str, value: Any, default: Any) -> Any:
    """Convert a value to the type of its field. Raises TypeError with a clause that tells what to give."""
    if name == "color_jitter":
        value = _jitter(value)
    if isinstance(default, str):
        if isinstance(value, str):
            return value
        raise TypeError(_one_of(_CHOICES[name]) if name in _CHOICES else "give text")
    if isinstance(default, tuple) or default is None:
        if value is None and default is None:
            return None
        length = len(default) if default is not None else 2
        if isinstance(value, list | tuple) and len(value) == length and all(map(_is_number, value)):
            return tuple(float(part) for part in value)
        raise TypeError(f"give {_LENGTHS[length]}")
    if isinstance(default, float):
        if _is_number(value):
            return float(value)
        raise TypeError("give a number")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError("give a whole number")


def _one_of(choices: Sequence[str]) -> str:
    return f"use {', '.join(filter(None, choices))}" + ", or leave it out" * ("" in choices)


def _jitter(value: Any) -> Any:
    """Complete timm's short forms: one number for brightness, contrast and saturation, or these three without a hue."""
    if _is_number(value):
        value = [value] * 3
    return [*value, 0.0] if isinstance(value, list | tuple) and len(value) == 3 else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
