"""YAML that others may have written: policies, recipes, settings.

Only this module reads YAML. Of its language it takes what settings need: mappings, lists, text, numbers, true, false
and null. Aliases are refused unexpanded (nine levels of nine of them never end), tags too; dates and `<<` are text.
Size and depth are limited before anything is built: whatever the text is, there is a value of plain types or a
FormatError.
"""

import re
from typing import Any

import yaml

from kdcache.io.plain_values import (
    FormatError,
    check_size,
    check_text,
    decode,
    no_duplicates,
    real_number,
    whole_number,
)

#: Bytes of a YAML text: fifty times what a recipe has. PyYAML reads some 50 to 200 kB/s.
MAX_BYTES = 2**17
#: Mappings and lists within each other; settings have four.
MAX_DEPTH = 32

_BASES = {"0b": 2, "0x": 16}


def parse_yaml(data: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value of a YAML text: dict, list, str, int, float, bool or None. Keys are text; `1e-3` is a number.

    Args:
        data: the text, in UTF-8 if it is bytes.
        max_bytes: limit of the text's bytes; a larger text is refused unread.

    Raises:
        FormatError: no YAML, several documents, too large, too deep, an alias or tag, a number that is not finite or
            has over 64 bits, a key that comes twice or is no text, or text with half a character in it.
    """
    if isinstance(data, bytes):
        text = decode(data, max_bytes)
    else:
        check_size(len(data), max_bytes)
        text = check_text(data)
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise FormatError(f"{error.problem or error.context}{where}") from None
    except yaml.reader.ReaderError as error:
        raise FormatError(f"the character U+{error.character:04X} cannot stand in it") from None
    except yaml.YAMLError as error:
        raise FormatError(f"{error}") from None
    except FormatError:
        raise
    except ValueError:  # an escape such as "\U00110000" that is beyond all characters
        raise FormatError("it has an escape that is no character") from None


def dump_yaml(value: Any) -> bytes:
    """Return YAML that `parse_yaml` reads as an equal value, with mappings in their order; plain values only."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode()


class _Dumper(yaml.SafeDumper):
    """PyYAML's own, which quotes text that `parse_yaml` would take for something else."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # In single quotes PyYAML writes U+0085 as it is, which is read as a space.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain values, with less of YAML and with limits."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node from the next events, and check it before it is built."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event, f"the alias *{event.anchor:.40} is not taken; write its value out")
        if event.tag is not None:
            raise _refusal(event, f"the tag {event.tag:.80} is not taken")
        if self._depth >= MAX_DEPTH:
            raise _refusal(event, f"it has more than {MAX_DEPTH} mappings and lists within each other")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _refusal(at: Any, what: str) -> FormatError:
    return FormatError(f"in line {at.start_mark.line + 1}, {what}")


def _null(loader: _Loader, node: yaml.ScalarNode) -> None:
    return None


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return node.value.lower() in ("yes", "true", "on")


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return check_text(node.value)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "").lower()
    sign, digits = ("-" if text.startswith("-") else ""), text.lstrip("+-")
    base = _BASES.get(digits[:2], 8 if digits.startswith("0") and len(digits) > 1 else 10)
    return whole_number(sign + digits.removeprefix("0b" if base == 2 else "0x" if base == 16 else ""), base)


def _real(loader: _Loader, node: yaml.ScalarNode) -> float:
    return real_number(node.value.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    pairs = []
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal(key, "a key is no plain text")
        pairs.append((check_text(key.value), loader.construct_object(value, deep=True)))
    try:
        return no_duplicates(pairs)
    except FormatError as error:
        raise FormatError(f"{error} in the mapping that begins in line {node.start_mark.line + 1}") from None


def _list(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return [loader.construct_object(part, deep=True) for part in node.value]


def _resolve(kind: str, pattern: str, first: str) -> None:
    for cls in (_Loader, _Dumper):
        cls.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"), list(first))


# Not those of the base class: PyYAML's own read dates, sexagesimal numbers, merges and tags.
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {}

# As in YAML 1.1, which PyYAML writes; but a number needs no dot before its exponent, nor a sign in it, and none is
# sexagesimal.
_resolve("bool", "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO")
_resolve("null", "~|null|Null|NULL", "~nN")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"\Z"), [""])
_resolve(
    "int",
    "[-+]?0b[0-1_]*[0-1]_*|[-+]?0x[0-9a-fA-F_]*[0-9a-fA-F]_*|[-+]?0[0-7_]*|[-+]?[1-9][0-9_]*",
    "-+0123456789",
)
_resolve(
    "float",
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|"
    r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)

_Loader.add_constructor("tag:yaml.org,2002:null", _null)
_Loader.add_constructor("tag:yaml.org,2002:bool", _bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _real)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.add_constructor("tag:yaml.org,2002:seq", _list)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
