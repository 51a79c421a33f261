"""The kinds of targets by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from kdcache.errors import UsageError
from kdcache.targets.base import TargetCodec
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.full import FullCodec
from kdcache.targets.topk_codec import TopKCodec

#: kind -> its codec, a dataclass of num_classes and the parameters
KINDS: Mapping[str, type[TopKCodec] | type[FullCodec] | type[EmbeddingCodec]] = {
    "topk": TopKCodec,
    "full": FullCodec,
    "embedding": EmbeddingCodec,
}


def create_codec(
    kind: str, num_classes: int, tables: Mapping[str, np.ndarray] | None = None, /, **parameters: Any
) -> TargetCodec:
    """The codec of a kind; parameters that are left out have the kind's defaults.

    Checksums of tables, which are among the parameters of an identity, are passed over: the tables are what counts.
    Raises UsageError for an unknown kind or parameter, or a value that makes no sense.
    """
    if kind not in KINDS:
        *most, last = KINDS
        raise UsageError(f"Targets of kind '{kind}' are not known; use {', '.join(most)} or {last}.")
    types = {field.name: field.type for field in fields(KINDS[kind]) if field.type in (int, float, str)}
    del types["num_classes"]
    parameters = {name: value for name, value in parameters.items() if name not in table_names(kind)}
    for name, value in parameters.items():
        if name not in types:
            raise UsageError(f"{kind} targets have no parameter '{name}'; they have {', '.join(types)}.")
        if types[name] is float and type(value) is int:
            try:
                parameters[name] = float(value)
            except OverflowError:
                raise UsageError(f"The parameter '{name}' of {kind} targets is too large.") from None
        elif type(value) is not types[name]:
            raise UsageError(f"The parameter '{name}' of {kind} targets cannot be {value!r}.")
    codec: TargetCodec = KINDS[kind](num_classes, **parameters)
    return codec if tables is None else codec.with_tables(tables)


def table_names(kind: str) -> set[str]:
    """The parameters of a kind that are checksums of tables."""
    return {"topk": {"order"}, "embedding": {"head"}}.get(kind, set())
