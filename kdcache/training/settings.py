"""Reading frozen dataclasses from plain values, as YAML files and command lines give them, and writing them back."""

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from kdcache.errors import ConfigError
from kdcache.io.plain_values import shown

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The numbers that a setting can have, as it is declared: `Annotated[float, Range(above=0, most=1e4)]`.

    Attributes:
        least, most: the smallest and the largest.
        above, below: numbers that it must exceed, or stay under.
        even: whether only even numbers will do.
    """

    least: int | float = -inf
    most: int | float = inf
    above: int | float = -inf
    below: int | float = inf
    even: bool = False

    def holds(self, value: int | float) -> bool:
        """Return whether a number lies in the range; NaN lies in none."""
        inside = self.least <= value <= self.most and self.above < value < self.below
        return inside and isfinite(value) and not (self.even and value % 2)

    def describe(self) -> str:
        """Describe the range, such as "a number above 0, at most 10,000"."""
        bounds = (("above", self.above), ("at least", self.least), ("below", self.below), ("at most", self.most))
        parts = [f"{words} {bound:,.0f}" for words, bound in bounds if abs(bound) != inf]
        return f"{'an even' if self.even else 'a'} number {', '.join(parts)}"


def check_ranges(value: Any, path: str = "") -> None:
    """Raise ConfigError for the first setting of a dataclass, or of those in it, that is out of its range, by name."""
    hints = get_type_hints(type(value), include_extras=True)
    for item in dataclasses.fields(value):
        name, part, hint = _join(path, item.name), getattr(value, item.name), hints[item.name]
        if dataclasses.is_dataclass(part):
            check_ranges(part, name)
        for allowed in getattr(hint, "__metadata__", ()) if get_origin(hint) is Annotated else ():
            numbers = part if isinstance(part, tuple) else () if part is None else (part,)
            if isinstance(allowed, Range) and not all(map(allowed.holds, numbers)):
                what = allowed.describe()
                what = what.replace("a number", "numbers") if isinstance(part, tuple) else what
                or_null = ", or null" if type(None) in get_args(get_args(hint)[0]) else ""
                raise ConfigError(f"{name} is {shown(part)}: give {what}{or_null}.")


def from_plain(cls: type[T], values: Any, path: str = "") -> T:
    """Build the dataclass `cls` from the mapping `values`; fields that it does not give have their defaults.

    Fields may be dataclasses, int, float, str, bool, None, Literal, unions of these, tuples of one type, or mappings,
    which are taken as they are. Of a union of dataclasses the value's `name` chooses the one whose own `name` is so by
    default; without one it is the first. A whole number is good for a float, and so is text that is one (YAML 1.1
    reads 5e-3 as text).

    Raises:
        ConfigError: an unknown key (with the nearest), a missing one, or a value of another type, by its full name.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'The configuration'} is {shown(values)}: give a mapping of settings.")
    known = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type] # cls is a dataclass
    hints = get_type_hints(cls)
    read: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(_unknown(_join(path, str(key)), _names(cls, path)))
        read[key] = _read(hints[key], value, _join(path, key))
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in read:
            raise ConfigError(f"The setting {_join(path, name)} is missing: give it a value.")
    return cls(**read)


def to_plain(value: Any) -> Any:
    """Return `value` as YAML and JSON can write it: dataclasses as mappings, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return value


def overlay(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `change` over it, mapping by mapping."""
    out = dict(base)
    for key, value in change.items():
        below = out.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        out[key] = overlay(below, value) if both else value  # type: ignore[arg-type] # both are mappings
    return out


def nested(name: str, value: Any) -> dict[str, Any]:
    """Return `value` under its dotted name: ("a.b", 1) gives {"a": {"b": 1}}."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two configurations differ: dotted name to both values."""
    one, other = to_plain(one), to_plain(other)
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return {} if one == other else {path: (one, other)}
    out: dict[str, tuple[Any, Any]] = {}
    for key in [*one, *(key for key in other if key not in one)]:
        out |= differences(one.get(key), other.get(key), _join(path, str(key)))
    return out


def _unknown(name: str, known: Sequence[str]) -> str:
    last = name.rpartition(".")[2]
    same_end = [other for other in known if other.rpartition(".")[2] == last]
    near = same_end or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"The nearest: {', '.join(near)}." if near else f"There are: {', '.join(known)}."
    return f"There is no setting {name}. {hint}"


def _names(cls: Any, path: str) -> list[str]:
    """Return the dotted names of all settings of the dataclass `cls` and of the dataclasses within it."""
    hints = get_type_hints(cls)
    names: dict[str, None] = {}
    for item in dataclasses.fields(cls):
        name = _join(path, item.name)
        within = [inner for kind in _dataclasses(hints[item.name]) for inner in _names(kind, name)]
        names |= dict.fromkeys(within or [name])
    return list(names)


def _dataclasses(kind: Any) -> list[Any]:
    """Return the dataclasses that `kind` is, or is a union of; none where it is anything else too."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return list(kinds) if all(map(dataclasses.is_dataclass, kinds)) else []


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _read(kind: Any, value: Any, name: str) -> Any:
    if kinds := _dataclasses(kind):
        return from_plain(_named(kinds, value, name), value, name)
    if get_origin(kind) in (Union, types.UnionType):
        return _read_union(get_args(kind), value, name)
    read = _plain(kind, value)
    if read is _NOT:
        raise ConfigError(f"{name} is {shown(value)}: give {_describe(kind)}.")
    return read


def _named(kinds: Sequence[Any], value: Any, path: str) -> Any:
    """Return the class among `kinds` that the `name` in `value` chooses."""
    if len(kinds) == 1 or not isinstance(value, Mapping) or "name" not in value:
        return kinds[0]
    by_name = {kind.name: kind for kind in kinds}
    wanted = value["name"]
    if not isinstance(wanted, str) or wanted not in by_name:
        raise ConfigError(f"{path}.name is {shown(wanted)}: give {' or '.join(by_name)}.")
    return by_name[wanted]


def _read_union(kinds: Sequence[Any], value: Any, name: str) -> Any:
    for kind in kinds:
        read = _plain(kind, value)
        if read is not _NOT:
            return read
    raise ConfigError(f"{name} is {shown(value)}: give {' or '.join(map(_describe, kinds))}.")


_NOT = object()  # what is no value of the wanted type


def _plain(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin is Literal:
        return value if value in get_args(kind) and isinstance(value, str) else _NOT
    if origin is tuple:
        parts = [_plain(get_args(kind)[0], part) for part in value] if isinstance(value, list | tuple) else [_NOT]
        wanted = len(get_args(kind)) if Ellipsis not in get_args(kind) else len(parts)
        return _NOT if _NOT in parts or len(parts) != wanted else tuple(parts)
    if origin is not None and issubclass(origin, Mapping):
        return dict(value) if isinstance(value, Mapping) else _NOT
    if kind is float:
        return _number(value)
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _NOT
    return value if isinstance(value, kind) else _NOT


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _NOT
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _NOT
    return number if isfinite(number) else _NOT


def _describe(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(get_args(kind))
    if origin is tuple:
        return f"a list of {_describe(get_args(kind)[0]).removeprefix('a ')}s"
    if origin is not None:
        return "a mapping"
    return {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        types.NoneType: "null",
    }.get(kind, str(kind))
