"""The policies that have names, and policies from files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.errors import ConfigError
from kdcache.io.did_you_mean import did_you_mean
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_bytes
from kdcache.io.remedies import REMEDIES
from kdcache.io.yaml_format import parse_yaml
from kdcache.views.policy import FILTERS, Policy

#: The commands of Hao et al. 2023 (VanillaKD): RandAugment without `inc1`, in which six operations have other levels,
#: and timm's default filter, which is drawn for each image.
_VANILLA_KD = Policy(auto_augment="rand-m7-mstd0.5", interpolation="random", cutmix=1.0, repeats=3)
_STRIKES_BACK = Policy(auto_augment="rand-m7-mstd0.5-inc1", interpolation="bicubic", cutmix=1.0, repeats=3)
_PADDED = Policy(crop="padded", pad=4, reference_size=32)
_STRONG = Policy(mixup=0.8, cutmix=1.0, interpolation="bicubic")

CENTRE = "centre"

#: The policy `centre` before it became timm's evaluation transform; caches that were made with it keep its meaning.
FORMER_CENTRE = Policy(crop="centre", crop_pct=0.875, hflip=0.0)

#: The name of each policy, its settings, and where they come from, for `kdcache policies`.
_POLICIES = (
    ("crop", Policy(), "the crop and flip that timm and torchvision train ImageNet with"),
    ("crop-mix", Policy(mixup=0.1, cutmix=1.0), "a2 without RandAugment and repeats, resized bilinearly"),
    ("a1", replace(_VANILLA_KD, mixup=0.2), "recipe A1 as the code of Hao et al. 2023, VanillaKD, has it"),
    ("a2", replace(_VANILLA_KD, mixup=0.1), "recipe A2 as the code of Hao et al. 2023, VanillaKD, has it"),
    ("rsb-a1", replace(_STRIKES_BACK, mixup=0.2), "procedure A1 of Wightman et al. 2021, ResNet strikes back"),
    ("rsb-a2", replace(_STRIKES_BACK, mixup=0.1), "procedure A2 of Wightman et al. 2021, ResNet strikes back"),
    (
        # The papers on distillation give recipe B's optimiser and schedule alone: AdamW at 1e-3 a batch of 1,024, 20
        # epochs of warm-up, 300 in all. These are the augmentations that the two papers publish with them.
        "b",
        replace(_STRONG, auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.25, erase_mode="pixel"),
        "recipe B: Liu et al. 2021, Swin Transformer; Liu et al. 2022, ConvNeXt",
    ),
    ("c", _PADDED, "recipe C: the padded crop and flip that He et al. 2016 train CIFAR with"),
    (
        "cifar-autoaugment",
        replace(_PADDED, auto_augment="cifar10", fill=(0.0, 0.0, 0.0), warp_interpolation="nearest"),
        "c, and torchvision's AutoAugment for CIFAR-10: Cubuk et al. 2019",
    ),
    (
        "three-augment",
        replace(_STRONG, auto_augment="3a", color_jitter=(0.3, 0.3, 0.3, 0.0), repeats=3),
        "ImageNet-1k in Touvron et al. 2022, DeiT III",
    ),
    (
        CENTRE,
        # What timm takes for a model that says nothing; a dump takes what its teacher says.
        Policy(crop="evaluation", crop_pct=0.875, interpolation="bicubic", hflip=0.0),
        "nothing random: timm's evaluation transform, in a dump with the teacher's own crop_pct and filter; one view "
        "is all there is",
    ),
    # Images of 28 x 28 pixels are trained at 32 x 32, where a crop of 8 % of the area would leave 8 x 8 pixels.
    ("fashion-mnist", Policy(crop_scale=(0.7, 1.0), reference_size=32), "the demo's, for Fashion-MNIST at 32"),
)
NAMED: dict[str, Policy] = {name: policy for name, policy, _ in _POLICIES}
ORIGIN: dict[str, str] = {name: origin for name, _, origin in _POLICIES}

DEFAULT = "a2"
#: The policy whose fields all have their defaults.
_PLAIN = "crop"


def describe_policy(policy: Policy, seed: int) -> str:
    """Return the text that describes a policy: its name if it has one, else its fields, and the seed of its views."""
    text = policy_name(policy) or ", ".join(f"{name} {value}" for name, value in policy.to_json().items())
    if is_centre(policy):
        text = f"{CENTRE} with crop_pct {policy.crop_pct:g}, {policy.interpolation}"
    return f"{text} (seed {seed})"


def is_centre(policy: Policy) -> bool:
    """Return whether a policy is `centre`, with any crop_pct and with either filter."""
    named = NAMED[CENTRE]
    return (
        policy.interpolation in FILTERS
        and replace(policy, crop_pct=named.crop_pct, interpolation=named.interpolation) == named
    )


def policy_name(policy: Policy) -> str | None:
    """Return the name of a policy, or None if it has none."""
    return next((name for name, named in NAMED.items() if named == policy), None)


def load_policy(name_or_file: str) -> Policy:
    """Load a named policy, or read one from a JSON or YAML file of `Policy` fields.

    A file with `base: NAME` takes the fields that it leaves out from that policy. The result does not remember its
    base: policies that are equal in every field are the same policy.

    Raises:
        ConfigError: there is no policy of that name and no file that can be read, or the file has unknown keys or
            wrong values.
    """
    return load_with_base(name_or_file)[0]


def load_with_base(name_or_file: str) -> tuple[Policy, str]:
    """Load a policy as `load_policy` does, with the name of its base: the file's base, else "crop".

    Raises:
        ConfigError: as for `load_policy`.
    """
    if name_or_file in NAMED:
        return NAMED[name_or_file], _PLAIN
    path = Path(name_or_file)
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(
            f"There is no policy called {name_or_file!r}, and it is no .json or .yaml file."
            f"{did_you_mean(name_or_file, NAMED)}"
        )
    values = _read(path)
    base = values.pop("base", None)
    base = _PLAIN if base is None else base
    if not isinstance(base, str) or base not in NAMED:
        raise ConfigError(
            f"The policy file {path} has the base {base!r}, which is no named policy.{did_you_mean(str(base), NAMED)}"
        )
    try:
        return Policy.from_json(NAMED[base].to_json() | values, also=("base",)), base
    except ConfigError as error:
        raise ConfigError(f"In {path}, {error}") from error


def _read(path: Path) -> dict[Any, Any]:
    """Return the fields in a policy file. Raises ConfigError."""
    try:
        data = read_bytes(path)
        values = parse_json(data) if path.suffix == ".json" else parse_yaml(data)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no policy file {path}. Check the path.") from error
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "Check the path.")
        raise ConfigError(f"The policy file {path} cannot be read: {error.strerror}. {remedy}") from error
    except FormatError as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ConfigError(f"The policy file {path} cannot be read as {kind}: {error}. Correct it.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"The policy file {path} holds no mapping: write one `field: value` a line.")
    return values
