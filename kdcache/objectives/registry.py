"""The objectives by name, each with its paper's settings for ImageNet or for CIFAR."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Union

from kdcache.errors import ConfigError
from kdcache.io.did_you_mean import did_you_mean
from kdcache.objectives.attention import AT
from kdcache.objectives.base import Objective
from kdcache.objectives.bkl import BKL
from kdcache.objectives.cc import CC
from kdcache.objectives.crd import CRD
from kdcache.objectives.dist import DIST
from kdcache.objectives.dkd import DKD
from kdcache.objectives.fitnet import FitNet
from kdcache.objectives.ipwd import IPWD
from kdcache.objectives.lskd import LSKD
from kdcache.objectives.pkt import PKT
from kdcache.objectives.ps_kd import PSKD
from kdcache.objectives.reviewkd import ReviewKD
from kdcache.objectives.rkd import RKD
from kdcache.objectives.sp import SP
from kdcache.objectives.vanilla import VanillaKD
from kdcache.objectives.wsld import WSLD

#: The values of `objective.name`; a name's settings can then be changed one by one.
OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "kd": VanillaKD(),
        "kd-cifar": VanillaKD(temperature=4.0, kd_weight=0.9, label_loss="ce", label_weight=0.1),
        "bkl": BKL(),
        "dkd": DKD(),
        "dkd-cifar": DKD(temperature=4.0, beta=8.0, warmup_epochs=20),
        "dist": DIST(),
        "dist-cifar": DIST(temperature=4.0),
        "lskd": LSKD(),
        "lskd-cifar": LSKD(label_weight=0.1),
        "lskd-dkd": LSKD(method="dkd"),
        "lskd-dkd-cifar": LSKD(method="dkd", beta=8.0, warmup_epochs=20),
        "wsld": WSLD(),
        "wsld-cifar": WSLD(temperature=4.0, kd_weight=2.25),
        "ipwd": IPWD(),
        "ipwd-cifar": IPWD(temperature=4.0, kd_weight=2.25),
        "ps-kd": PSKD(),
        "ps-kd-cifar": PSKD(alpha=0.8),
        "rkd": RKD(),
        "cc": CC(),
        "pkt": PKT(),
        "sp": SP(),
        "crd": CRD(),
        "at": AT(),
        "fitnet": FitNet(),
        "reviewkd": ReviewKD(),
        "reviewkd-cifar": ReviewKD(kd_weight=5.0, warmup_epochs=20),
    }
)

# A configuration is read by the fields of the class that `name` chooses, so its type is the union of all classes. The
# union is made from the table, so that a new objective is one row here; a type checker cannot follow that.
if TYPE_CHECKING:
    AnyObjective = Objective
else:
    AnyObjective = Union[tuple(map(type, OBJECTIVES.values()))]  # noqa: UP007 # the members are not known by name


def objective_named(name: str) -> Objective:
    """Return the objective with the settings of this name.

    Raises:
        ConfigError: the name is unknown; the message has the nearest names, where some are near.
    """
    if name not in OBJECTIVES:
        raise ConfigError(
            f"There is no objective {name!r}.{did_you_mean(name, OBJECTIVES)} docs/objectives.md describes each."
        )
    return OBJECTIVES[name]
