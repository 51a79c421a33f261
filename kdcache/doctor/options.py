"""The options of `doctor`."""

from dataclasses import dataclass
from typing import Annotated

from kdcache.runtime.option import Option
from kdcache.runtime.shared_options import CACHE, DATA, DEFAULT_CACHE, DEFAULT_DATA


@dataclass(frozen=True)
class DoctorOptions:
    """The options of `doctor`.

    Attributes:
        data, cache: shards and cache of a later `dump-logits` or `train`; None checks their defaults, where shards
            may be missing.
        limit: seconds for each trial: importing PyTorch from a cold network disk takes a good part of it.
    """

    data: Annotated[
        str | None,
        Option("Shards that a job will read.", metavar="DATA", envvar=DATA.envvar, default_text=DEFAULT_DATA),
    ] = None
    cache: Annotated[
        str | None,
        Option("Cache that a job will use.", metavar="PATH", envvar=CACHE.envvar, default_text=DEFAULT_CACHE),
    ] = None
    limit: Annotated[float, Option("Seconds that each check may take.", metavar="SECONDS", minimum=1)] = 120.0
