"""What each kind of targets can give, by its name, and a running teacher, "live"."""

from collections.abc import Mapping

from kdcache.targets.base import Capabilities
from kdcache.targets.kinds import KINDS, codec_class
from kdcache.targets.live import LIVE_CAPABILITIES

CAPABILITIES: Mapping[str, Capabilities] = {
    **{kind: codec_class(kind).capabilities for kind in KINDS},
    "live": LIVE_CAPABILITIES,
}
