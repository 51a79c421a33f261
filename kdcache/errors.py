"""The errors a user can meet, as one tree.

    KdcacheError
    ├── UsageError              an option or a combination of options that makes no sense
    ├── ConfigError             a recipe, a policy or a --set that cannot be read
    ├── DeviceError             a device that is not there
    ├── DataError               shards, index, importers
    │   ├── UnreachableDataError  shards that cannot be read for the moment, and may be sound
    │   ├── BrokenImageError    one image that cannot be decoded
    │   └── BadSamplesError     a check that found some
    ├── ModelError              unknown names, weights that do not fit or cannot be had
    ├── CacheError              a store that cannot be read or written
    │   ├── IdentityError       things that do not belong together
    │   ├── RecordedError       a block that another process writes too
    │   ├── SourceError         a block that cannot be copied
    │   ├── UnreadableError     a place that cannot be read or reached: what lies there may be sound
    │   └── CorruptError        bytes that are not those that were written
    ├── RunError                a run folder that cannot be used
    └── FolderHeldError         a folder that another process writes

A message is one sentence of cause, one of consequence where it is not plain, and what to do. The command line prints
it without a traceback and exits with `exit_code`.

Messages quote names, keys and other people's errors. `str` of an error escapes what would not be seen as itself
(`kdcache.errors`), so that it can be shown as it is.
"""

from collections.abc import Sequence


class KdcacheError(Exception):
    """Base of every error that kdcache raises on purpose; its text says the cause and what to do.

    Attributes:
        exit_code: number with which the command line exits; 1, or 2 for what was asked for in a wrong way.
        option_words: the text as the command line says it, where that of the error speaks of Python's arguments.

    Example:
        >>> try:
        ...     dataset = kdcache.open_cache("cache", data="data")
        ... except kdcache.KdcacheError as error:
        ...     print(error)
    """

    exit_code = 1
    option_words: str | None = None

    def __str__(self) -> str:
        """Return the message in one line; nothing in it can steer a terminal."""
        return printable(super().__str__())


def reason(error: BaseException) -> str:
    """Return the first line of somebody else's error, to be quoted in one of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(":.") if lines else type(error).__name__


class UsageError(KdcacheError):
    """An option, or a combination of options, that makes no sense."""

    exit_code = 2


class ConfigError(KdcacheError):
    """A recipe, policy or setting that cannot be read or has an unknown key."""

    exit_code = 2


class DeviceError(KdcacheError):
    """A device or backend that was asked for and is not there."""


class DataError(KdcacheError):
    """Shards, samples or an index that cannot be used."""


class UnreachableDataError(DataError):
    """Shards that cannot be read for the moment, and of which nobody knows what they hold."""


class BrokenImageError(DataError):
    """One image that cannot be decoded."""


class BadSamplesError(DataError):
    """A check of all images found bad ones; `samples` describes each in a line."""

    exit_code = 3

    def __init__(self, message: str, samples: Sequence[str]) -> None:
        super().__init__(message)
        self.samples = tuple(samples)


class ModelError(KdcacheError):
    """A model that is not known, or weights that do not fit it or cannot be had."""


class UnknownModelError(ModelError):
    """A name of a model that nobody knows: neither kdcache nor timm, nor a module that was imported."""


class CacheError(KdcacheError):
    """A cache that cannot be read or written.

    Attributes:
        problem: the message without `remedy`, for whoever knows another one.
        remedy: what to do, at the end of the message; empty where the cause says it already.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem, self.remedy = problem, remedy


class IdentityError(CacheError):
    """Things that do not belong together; `field` names what differs."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class RecordedError(CacheError):
    """A block that was to be written, and that another process has written meanwhile."""


class SourceError(CacheError):
    """A block that was to be copied, and that is damaged or cannot be read; `damaged` says which."""

    def __init__(self, problem: str, remedy: str = "", *, damaged: bool = True) -> None:
        super().__init__(problem, remedy)
        self.damaged = damaged


class UnreadableError(CacheError):
    """A place that cannot be read or reached for the moment, and of which nobody knows what lies there."""


class CorruptError(CacheError):
    """Stored bytes that are not those that were written."""


class RunError(KdcacheError):
    """A run folder that cannot be used."""


class FolderHeldError(KdcacheError):
    """A folder that cannot be written, because another process writes it."""


#: Letters and marks that Python takes for printable and nobody sees: a joiner, fillers of Hangul, vowels of Khmer.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


def printable(text: str) -> str:
    r"""Return the text in one line, with every character escaped that would not be seen as itself.

    Escaped, as Python writes them (`\n`, `\x1b`, `\u202e`), are control characters (C0, C1, DEL), those that turn the
    direction of writing, invisible and unassigned ones, separators of lines and paragraphs, spaces other than " ",
    and halves of characters (lone surrogates), which cannot be written at all. A byte of a file name that is no UTF-8
    is shown as that byte (`\xff`). What is printable already stays as it is, backslashes too, so that escaping twice
    is as good as once.
    """
    if text.isprintable() and _UNSEEN.isdisjoint(text):
        return text
    return "".join(char if char.isprintable() and char not in _UNSEEN else _escaped(char) for char in text)


def printable_excerpt(text: str, length: int, default: str) -> str:
    """Return the beginning of a text as `printable` shows it: at most `length` characters, or `default` for none."""
    return printable(text[:length])[:length] or default


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
