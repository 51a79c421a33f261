"""Settings as plain values, as YAML has them: written, laid over each other, and compared."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdcache.errors import ConfigError


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


def split_assignment(assignment: str) -> tuple[str, str]:
    """Return the dotted name and the text of the value of a NAME=VALUE. Raises ConfigError where it is none."""
    name, equals, text = assignment.partition("=")
    if not (name.strip() and equals):
        lacks = "no name before its equals sign" if equals else "no equals sign"
        raise ConfigError(
            f"--set {assignment} has {lacks}, so that it sets nothing: write NAME=VALUE without spaces, such as --set "
            "optimizer.lr=0.001."
        )
    return name.strip(), text


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two configurations differ: dotted name to both values."""
    one, other = to_plain(one), to_plain(other)
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return {} if one == other else {path: (one, other)}
    out: dict[str, tuple[Any, Any]] = {}
    for key in [*one, *(key for key in other if key not in one)]:
        out |= differences(one.get(key), other.get(key), _join(path, str(key)))
    return out


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
