"""The kinds of targets by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from kdcache.errors import UsageError
from kdcache.targets.base import Coding
from kdcache.targets.embedding import EmbeddingCoding
from kdcache.targets.full import FullCoding
from kdcache.targets.topk_codec import TopKCoding

#: kind -> its coding, a dataclass of num_classes and the parameters
KINDS: Mapping[str, type[TopKCoding] | type[FullCoding] | type[EmbeddingCoding]] = {
    "topk": TopKCoding,
    "full": FullCoding,
    "embedding": EmbeddingCoding,
}


def make_coding(
    kind: str, num_classes: int, tables: Mapping[str, np.ndarray] | None = None, /, **parameters: Any
) -> Coding:
    """The coding of a kind; parameters that are left out have the kind's defaults.

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
    coding: Coding = KINDS[kind](num_classes, **parameters)
    return coding if tables is None else coding.with_tables(tables)


def table_names(kind: str) -> set[str]:
    """The parameters of a kind that are checksums of tables."""
    return {"topk": {"order"}, "embedding": {"head"}}.get(kind, set())
