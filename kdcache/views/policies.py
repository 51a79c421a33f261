"""The policies that have names, and policies from files."""

from pathlib import Path

import yaml

from kdcache.errors import ConfigError
from kdcache.views.policy import Policy

NAMED: dict[str, Policy] = {
    # Random resized crop and flip alone: He et al. 2016 as torchvision and timm train it.
    "crop": Policy(),
    # With mixup 0.1 and cutmix 1.0: the mixing of recipe A2 (Wightman, Touvron, Jegou 2021), without RandAugment.
    "crop-mix": Policy(mixup=0.1, cutmix=1.0),
    # 28x28 pictures trained at 32x32, where a crop of 8 % would leave 8x8 pixels.
    "fashion-mnist": Policy(crop_scale=(0.7, 1.0), reference_size=32),
}

DEFAULT = "crop-mix"


def describe_policy(policy: Policy, seed: int) -> str:
    """A policy in words: its name where it has one, else its own fields, and the seed of its views."""
    names = [name for name, named in NAMED.items() if named == policy]
    text = names[0] if names else ", ".join(f"{name} {value}" for name, value in policy.to_json().items())
    return f"{text} (seed {seed})"


def load_policy(name_or_file: str) -> Policy:
    """A named policy, or one read from a JSON or YAML file of `Policy` fields.

    Raises:
        ConfigError: neither a name nor a readable file, or a file with unknown keys or wrong values.
    """
    if name_or_file in NAMED:
        return NAMED[name_or_file]
    path = Path(name_or_file)
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(
            f"There is no policy called {name_or_file!r}: use {', '.join(NAMED)}, or a .json or .yaml file."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The policy file {path} cannot be read: {error}. Check path and syntax.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"The policy file {path} holds no mapping: write one `field: value` a line.")
    return Policy.from_json(values)
