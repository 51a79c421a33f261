"""The registry of target kinds, and the functions that make a codec of a kind.

Importing it imports no codec, and so no torch: a command refuses options before that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from kdcache.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from kdcache.targets.base import ReadClassifier, TargetCodec


@dataclass(frozen=True)
class Kind:
    """A kind of targets, as far as it can be told before its codec is imported.

    Attributes:
        codec: module and name of its codec, a frozen dataclass of num_classes and the parameters.
        options: the parameters that a user chooses, in the order of messages.
    """

    codec: str
    options: tuple[str, ...]


#: The kinds that there are, by their names in a cache and on the command line.
KINDS: Mapping[str, Kind] = {
    "topk": Kind("kdcache.targets.topk_codec:TopKCodec", options=("k", "min_prob")),
    "full": Kind("kdcache.targets.full:FullCodec", options=("dtype",)),
    "embedding": Kind("kdcache.targets.embedding:EmbeddingCodec", options=("dtype",)),
}

#: What a dump keeps where nothing else is asked for.
DEFAULT_KIND = "topk"


def codec_class(kind: str) -> "type[TargetCodec]":
    """Return the class of a kind's codec. Raises UsageError for an unknown kind."""
    if kind not in KINDS:
        *most, last = KINDS
        raise UsageError(f"Targets of kind '{kind}' are not known; use {', '.join(most)} or {last}.")
    found: type[TargetCodec] = resolve_name(KINDS[kind].codec)
    return found


def create_codec(
    kind: str, num_classes: int, tables: "Mapping[str, np.ndarray] | None" = None, /, **parameters: Any
) -> "TargetCodec":
    """Return the codec of a kind; parameters that are left out have the kind's defaults.

    Checksums of tables, which are among the parameters of an identity, are passed over: the tables are what counts.
    Raises UsageError for an unknown kind or parameter, or a value that makes no sense.
    """
    codec = codec_class(kind)(num_classes, **_checked(kind, parameters))  # type: ignore[call-arg] # see `Kind.codec`
    return codec if tables is None else codec.with_tables(tables)


def codec_for_teacher(kind: str, num_classes: int, classifier: "ReadClassifier", /, **options: Any) -> "TargetCodec":
    """Return the codec of a kind for a teacher, as `TargetCodec.for_teacher` makes it.

    Raises UsageError also for an unknown kind or option.
    """
    return codec_class(kind).for_teacher(num_classes, classifier, **_checked(kind, options))


def require_options_of(kind: str, given: Mapping[str, object]) -> None:
    """Refuse options that targets of a kind do not have; None for those that were not given.

    Raises:
        UsageError: there is one.
    """
    own = KINDS[kind].options if kind in KINDS else tuple(given)  # an unknown kind is refused by `codec_class`
    for option, value in given.items():
        if value is not None and option not in own:
            kinds = [name for name, row in KINDS.items() if option in row.options]
            raise UsageError(
                f"{_flag(option)} belongs to --targets {' or '.join(kinds)}; {kind} targets take "
                f"{' and '.join(map(_flag, own)) or 'no options'}."
            )


def _checked(kind: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without the checksums of tables, and whole numbers as floats where floats are meant."""
    codec = codec_class(kind)
    types = {field.name: field.type for field in fields(codec) if field.type in (int, float, str)}  # type: ignore[arg-type]
    del types["num_classes"]
    found = {name: value for name, value in parameters.items() if name not in codec.table_names}
    for name, value in found.items():
        if name not in types:
            raise UsageError(f"{kind} targets have no parameter '{name}'; they have {', '.join(types)}.")
        if types[name] is float and type(value) is int:
            try:
                found[name] = float(value)
            except OverflowError:
                raise UsageError(f"The parameter '{name}' of {kind} targets is too large.") from None
        elif type(value) is not types[name]:
            raise UsageError(f"The parameter '{name}' of {kind} targets cannot be {value!r}.")
    return found


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
