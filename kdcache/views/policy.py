"""A policy: the distribution that augmentations are drawn from, as a frozen value that is its own identity."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from kdcache.errors import ConfigError
from kdcache.io.checked import Setting, checked, read
from kdcache.io.did_you_mean import did_you_mean
from kdcache.io.limits import MAX_EPOCHS
from kdcache.views.schemes.parsing import parse_scheme

FILTERS = ("bilinear", "bicubic")
INTERPOLATIONS = (*FILTERS, "random")
WARP_INTERPOLATIONS = ("", "nearest")
CROPS = ("resized", "centre", "padded", "evaluation")
ERASE_MODES = ("const", "rand", "pixel")


def _pair_clause(pair: tuple[float, float] | None) -> str:
    """Return what is wrong with the ends of a range, or ""."""
    return "" if pair is None or 0 < pair[0] <= pair[1] else "give two numbers, 0 < low <= high"


def _share_clause(pair: tuple[float, float] | None) -> str:
    """Return what is wrong with the ends of a range of shares, or ""."""
    return _pair_clause(pair) or ("shares of the image end at 1" if pair is not None and pair[1] > 1 else "")


def _alpha_clause(alpha: float) -> str:
    return "" if alpha == 0 or alpha >= 1e-3 else "alpha is 0 (off) or at least 0.001"


def _jitter_clause(amounts: tuple[float, float, float, float]) -> str:
    if min(amounts) >= 0 and amounts[3] <= 0.5:
        return ""
    return "give brightness, contrast, saturation and hue, each at least 0, the hue at most 0.5"


#: What settings of several fields have in common.
_PROBABILITY: dict[str, Any] = {"least": 0, "most": 1, "rule": "a probability lies in 0..1"}
_CHANNELS: dict[str, Any] = {"least": 0, "most": 255, "wanted": "three numbers", "rule": "give three values in 0..255"}
_COUNT: dict[str, Any] = {"least": 1, "most": 64, "rule": "give a whole number from 1 to 64"}


@checked
@dataclass(frozen=True)
class Policy:
    """The distribution of the augmentations of a view. Names and meanings of the fields are timm's.

    The JSON form leaves out every field that has its default. So a field that is added later leaves older caches
    valid, and a default that has been released never changes.
    """

    crop: Annotated[
        str,
        Setting(
            "Kind of crop: 'resized' (timm's RandomResizedCrop), 'centre' (the central square, the same for "
            "every view), 'padded' (the central square, shifted by up to `pad` pixels, as in CIFAR recipes), "
            "or 'evaluation' (timm's evaluation transform in its crop mode 'center', which resizes first and "
            "crops then; the same for every view).",
            choices=CROPS,
        ),
    ] = "resized"
    crop_scale: Annotated[
        tuple[float, float],
        Setting(
            "Range of a resized crop's area, as a share of the image's.", check=_share_clause, wanted="two numbers"
        ),
    ] = (0.08, 1.0)
    crop_ratio: Annotated[
        tuple[float, float],
        Setting("Range of a resized crop's width / height.", check=_pair_clause, wanted="two numbers"),
    ] = (3 / 4, 4 / 3)
    crop_pct: Annotated[
        float,
        Setting(
            "Side of the central square, as a share of the image's shorter side. For 'evaluation' it is "
            "timm's: the shorter side is resized to floor(size / crop_pct) pixels, and the central square is "
            "cut out.",
            above=0,
            most=1,
            rule="give a share of the shorter side, over 0 to 1",
        ),
    ] = 1.0
    pad: Annotated[
        int,
        Setting(
            "Largest shift of a padded crop along each axis, in pixels at the reference size; the uncovered "
            "part is black."
        ),
    ] = 0
    hflip: Annotated[
        float,
        Setting("Probability of a horizontal flip.", **_PROBABILITY),
    ] = 0.5
    interpolation: Annotated[
        str,
        Setting(
            "Filter of the antialiased resize to the model's input size, and of operations that warp: "
            "'bilinear', 'bicubic', or 'random' (one of the two is drawn each time).",
            choices=INTERPOLATIONS,
        ),
    ] = "bilinear"
    auto_augment: Annotated[
        str,
        Setting(
            "timm's configuration string: 'rand-m9-mstd0.5-inc1', 'original', 'v0', '3a', ..., or 'cifar10', "
            "torchvision's AutoAugment policy for CIFAR-10 (whose own `warp_interpolation` is 'nearest' and "
            "whose `fill` is black); empty for none."
        ),
    ] = ""
    color_jitter: Annotated[
        tuple[float, float, float, float],
        Setting(
            "Amounts of torchvision's ColorJitter, which comes after `auto_augment`: brightness, contrast, "
            "saturation, hue.",
            check=_jitter_clause,
            wanted="one number, three or four",
        ),
    ] = (0.0, 0.0, 0.0, 0.0)
    color_jitter_prob: Annotated[
        float,
        Setting("Probability that colour jitter is applied at all.", **_PROBABILITY),
    ] = 1.0
    fill: Annotated[
        tuple[float, float, float],
        Setting(
            "Colour of what a warp uncovers, and of erased boxes, in 0..255. timm takes the data set's mean, "
            "rounded for warps, as here, and unrounded for boxes: (123.675, 116.28, 103.53) gives both.",
            **_CHANNELS,
        ),
    ] = (124.0, 116.0, 104.0)
    erase_prob: Annotated[
        float,
        Setting("Probability of timm's RandomErasing.", **_PROBABILITY),
    ] = 0.0
    erase_mode: Annotated[
        str,
        Setting("'const' (`fill`), 'rand' (one random colour a box) or 'pixel' (one a pixel).", choices=ERASE_MODES),
    ] = "const"
    erase_count: Annotated[
        int,
        Setting("Largest number of boxes erased in one image; the number is drawn from 1 to this.", **_COUNT),
    ] = 1
    erase_std: Annotated[
        tuple[float, float, float],
        Setting(
            "Standard deviation of random colours around `fill`, in 0..255; timm takes the data set's.", **_CHANNELS
        ),
    ] = (58.395, 57.12, 57.375)
    repeats: Annotated[
        int,
        Setting(
            "Number of views that share one order, for repeated augmentation (Hoffer et al. 2020): an epoch "
            "shows that many views of each of its images, and fewer images.",
            **_COUNT,
        ),
    ] = 1
    mixup: Annotated[
        float,
        Setting("Alpha of mixup's Beta(alpha, alpha); 0 turns it off.", check=_alpha_clause),
    ] = 0.0
    cutmix: Annotated[
        float,
        Setting("Alpha of cutmix's Beta(alpha, alpha); 0 turns it off.", check=_alpha_clause),
    ] = 0.0
    cutmix_minmax: Annotated[
        tuple[float, float] | None,
        Setting(
            "Range of the cut box's sides, as shares of the image's side; null draws the area from the Beta.",
            check=_share_clause,
            wanted="two numbers",
        ),
    ] = None
    mix_prob: Annotated[
        float,
        Setting("Probability that a pair is mixed at all.", **_PROBABILITY),
    ] = 1.0
    switch_prob: Annotated[
        float,
        Setting("Probability of cutmix where mixup and cutmix are both on.", **_PROBABILITY),
    ] = 0.5
    reference_size: Annotated[
        int,
        Setting(
            "Pixels a side at which boxes, shifts and mixing weights are fixed; the usual training size.",
            least=8,
            most=4096,
            rule="give pixels a side, 8 to 4096",
        ),
    ] = 224
    warp_interpolation: Annotated[
        str,
        Setting(
            "Filter of operations that warp, if it is another one: 'nearest', which is torchvision's default.",
            choices=WARP_INTERPOLATIONS,
        ),
    ] = ""
    mixup_off_view: Annotated[
        int,
        Setting(
            "Number of the first view in which nothing is mixed any more, a multiple of `repeats`, as timm's "
            "mixup_off_epoch; 0: all views are mixed.",
            least=0,
            most=MAX_EPOCHS,
            rule="give the number of a view, or 0",
        ),
    ] = 0

    section: ClassVar[str] = "policy"

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[str]:
        """Yield a sentence for settings that do not go together; `values` has those that are right by themselves."""
        pad: Any
        size: Any
        crop, pad, size = (values.get(name) for name in ("crop", "pad", "reference_size"))
        if None not in (crop, pad, size) and not ((0 < pad <= size) if crop == "padded" else pad == 0):
            yield (
                f"policy.pad is {pad} and policy.crop {crop!r}: a padded crop needs pad, 1 to reference_size "
                "pixels, and no other crop has it."
            )
        yield from _conflicts_of_mixing(values)
        if "auto_augment" in values and size is not None:
            try:
                parse_scheme(values["auto_augment"], size)
            except ConfigError as error:
                yield str(error)

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
        return _mixes(vars(self))

    def to_json(self) -> dict[str, Any]:
        """Return the canonical form of the policy: the fields that differ from their defaults, as plain JSON values."""
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
        known = [*(field.name for field in dataclasses.fields(cls)), *also]
        if "color_jitter" in values:
            values = {**values, "color_jitter": _jitter(values["color_jitter"])}
        return read(
            cls,
            values,
            cls.section,
            sentence=lambda fault: None if fault.kind != "unknown" else _unknown_field(fault.name, known),
        )


def _mixes(values: Mapping[str, Any]) -> bool:
    some = values["mixup"] > 0 or values["cutmix"] > 0 or values["cutmix_minmax"] is not None
    return some and values["mix_prob"] > 0


def _conflicts_of_mixing(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence where `mixup_off_view` does not go with the other settings."""
    off: Any
    repeats: Any
    off, repeats = values.get("mixup_off_view"), values.get("repeats")
    if off and repeats and off % repeats:
        yield (
            f"policy.mixup_off_view is {off}, and {repeats} views that share an order are seen in one epoch: give a "
            f"multiple of {repeats}."
        )
    if off and {"mix_prob", "mixup", "cutmix", "cutmix_minmax"} <= values.keys() and not _mixes(values):
        yield f"policy.mixup_off_view is {off}, and the policy mixes nothing: leave it out, or give mixup or cutmix."


def _unknown_field(name: str, known: list[str]) -> str:
    return f"{name} is no field.{did_you_mean(name.removeprefix('policy.'), known)}"


def _jitter(value: Any) -> Any:
    """Complete timm's short forms: one number for brightness, contrast and saturation, or these three without a hue."""
    if _is_number(value):
        value = [value] * 3
    return [*value, 0.0] if isinstance(value, list | tuple) and len(value) == 3 else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
