"""The parser of `Policy.auto_augment`: from a configuration string to a scheme."""

from functools import lru_cache

from kdcache.errors import ConfigError
from kdcache.io.did_you_mean import did_you_mean
from kdcache.views.schemes.auto_augment import AUTO_AUGMENTS, parse_auto_augment
from kdcache.views.schemes.rand_augment import parse_rand_augment
from kdcache.views.schemes.scheme import Scheme


@lru_cache(maxsize=16)
def parse_scheme(config: str, reference_size: int) -> Scheme | None:
    """Read timm's configuration string, or "cifar10"; an empty string gives None.

    Args:
        config: "rand-m9-mstd0.5-inc1", "original", "v0r-mstd0.5", "3a", "cifar10", ...
        reference_size: pixels a side at which torchvision's translations are whole pixels.

    Raises:
        ConfigError: a name or a section is unknown; the message offers the nearest that is known.
    """
    if not config:
        return None
    name = config.split("-")[0]
    if name == "rand":
        return parse_rand_augment(config)
    if name in AUTO_AUGMENTS:
        return parse_auto_augment(config, reference_size)
    if name == "augmix":
        raise ConfigError(
            f"policy.auto_augment is {config!r}: AugMix blends several images into one, which is no sequence of "
            "operations, so a plan cannot hold it. Use RandAugment, such as rand-m9-mstd0.5-inc1."
        )
    hint = did_you_mean(name, ["rand", *AUTO_AUGMENTS])
    raise ConfigError(f"policy.auto_augment is {config!r}: there is no augmentation {name!r}.{hint}")
