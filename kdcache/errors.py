"""The errors a user can meet, as one tree.

    KdcacheError
    ├── UsageError              an option or a combination of options that makes no sense
    ├── ConfigError             a recipe, a policy or a --set that cannot be read
    ├── DeviceError             a device that is not there
    ├── DataError               shards, index, importers
    │   └── BrokenImageError    one image that cannot be decoded
    ├── ModelError              unknown names, weights that do not fit or cannot be had
    ├── CacheError              a store that cannot be read or written
    │   ├── IdentityError       things that do not belong together
    │   └── CorruptError        bytes that are not those that were written
    └── RunError                a run folder that cannot be used

A message is one sentence of cause, one of consequence where it is not plain, and what to do. The command line prints
it without a traceback and exits with `exit_code`.
"""


class KdcacheError(Exception):
    """Base of every error that kdcache raises on purpose."""

    exit_code = 1


def reason(error: BaseException) -> str:
    """The first line of somebody else's error, to be quoted in one of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(":.") if lines else type(error).__name__


class UsageError(KdcacheError):
    """An option, or a combination of options, that makes no sense."""

    exit_code = 2


class ConfigError(KdcacheError):
    """A recipe, policy or setting that cannot be read or has an unknown key."""


class DeviceError(KdcacheError):
    """A device or backend that was asked for and is not there."""


class DataError(KdcacheError):
    """Shards, samples or an index that cannot be used."""


class BrokenImageError(DataError):
    """One image that cannot be decoded."""


class ModelError(KdcacheError):
    """A model that is not known, or weights that do not fit it or cannot be had."""


class CacheError(KdcacheError):
    """A cache that cannot be read or written."""


class IdentityError(CacheError):
    """Things that do not belong together; `field` names what differs."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class CorruptError(CacheError):
    """Stored bytes that are not those that were written."""


class RunError(KdcacheError):
    """A run folder that cannot be used."""
