"""Settings, each declared once in a frozen dataclass with type, default, range and help, and checked by pydantic.

    @checked
    @dataclass(frozen=True)
    class ScheduleConfig:
        epochs: Annotated[int, Setting("Passes over the data.", least=1, most=1_000_000)]

Values are checked however an instance is made: in Python, by `dataclasses.replace`, or from a YAML file (`read`). A
ConfigError names all faults at once. pydantic is imported by the first check, so that a declaration costs
`kdcache --help` nothing.
"""

import dataclasses
import difflib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from kdcache.errors import ConfigError
from kdcache.io.plain_values import shown

T = TypeVar("T")

#: How pydantic names the faults of values that have the right type.
_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "broken_rule"}
_UNKNOWN = {"unexpected_keyword_argument", "invalid_key"}


@dataclass(frozen=True)
class Setting:
    """How a setting is declared, beside its type and its default: `Annotated[float, Setting("...", above=0, most=1)]`.

    Nothing is converted but whole numbers to float, and lists to tuples. Numbers are finite. Bounds hold for each part
    of a tuple.

    Attributes:
        help: one or two sentences that tell what the setting does.
        least, most: the smallest and the largest number.
        above, below: numbers that it must exceed, or stay under.
        even: whether only even numbers will do.
        choices: the texts that are taken; empty where any text is.
        check: a further rule: returns the clause that tells what is wrong with a value, or "".
        wanted: what a value of another type is told to be, such as "two numbers"; "" for what follows from the type.
        rule: the clause that a value out of the bounds is told; "" for what follows from the bounds.
        exact: whether a whole number is refused where a float is wanted.
    """

    help: str
    least: int | float = -inf
    most: int | float = inf
    above: int | float = -inf
    below: int | float = inf
    even: bool = False
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str] | None = None
    wanted: str = ""
    rule: str = ""
    exact: bool = False

    def type_clause(self, kind: Any) -> str:
        """Return what a value is told that is not of the type, such as "give a whole number or null"."""
        if self.choices:
            return f"use {', '.join(filter(None, self.choices))}" + ", or leave it out" * ("" in self.choices)
        return f"give {self.wanted or _describe(kind)}"

    def range_clause(self, kind: Any) -> str:
        """Return what a value of the type is told, such as "give a number above 0, at most 10,000, or null"."""
        if self.rule:
            return self.rule
        bounds = (("above", self.above), ("at least", self.least), ("below", self.below), ("at most", self.most))
        several = any(get_origin(part) is tuple for part in _alternatives(kind))
        noun = "numbers" if several else "an even number" if self.even else "a number"
        limits = ", ".join(f"{relation} {_format_bound(bound)}" for relation, bound in bounds if abs(bound) != inf)
        return f"give {noun} {limits}" + ", or null" * (types.NoneType in _alternatives(kind))

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        """Tell pydantic what is taken: values of the type without conversion, within the bounds, by the rule."""
        return handler.generate_schema(_strict(kind, self))


class Fault(NamedTuple):
    """What is wrong with one setting.

    Attributes:
        kind: "unknown" or "missing" name, value of another "type", or out of its "range".
        name: the setting's full name.
        value: what was given; None where nothing was.
        type: what is wanted; None for an unknown name.
    """

    kind: Literal["unknown", "missing", "type", "range"]
    name: str
    value: Any
    type: Any


def checked(cls: type[T]) -> type[T]:
    """Make a frozen dataclass check its settings, of which each is `Annotated` with a `Setting`, or a Literal.

    A field may hold such a dataclass in turn, or one of several, which its `name` chooses. Two methods may yield
    sentences about settings that do not go together: `rules(self)`, which pydantic calls with an instance whose
    settings are right by themselves, and a static method `conflicts(values)`, which also gets those beside which
    others are wrong. `section` is the class's name in messages ("objective"), where it is not a part of another.

    Raises:
        ConfigError: from the constructor; every fault, by the setting's name.
    """
    signature = inspect.signature(cls)

    @functools.wraps(cls.__init__)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        vars(self).update(vars(_validated(cls, given, getattr(cls, "section", ""))))

    setattr(cls, "__init__", construct)  # noqa: B010 # mypy lets nobody assign to it
    setattr(cls, "__pydantic_config__", {"extra": "forbid"})  # noqa: B010
    if hasattr(cls, "rules"):
        setattr(cls, "__get_pydantic_core_schema__", classmethod(_with_rules))  # noqa: B010
    return cls


def _with_rules(cls: Any, source: Any, handler: Any) -> Any:
    """Return pydantic's schema of a dataclass whose instances must obey their `rules`."""
    from pydantic_core import core_schema

    return core_schema.no_info_after_validator_function(_obey_rules, handler(source))


def _obey_rules(value: Any) -> Any:
    from pydantic_core import PydanticCustomError

    if sentences := list(value.rules()):
        raise PydanticCustomError("broken_rules", "{text}", {"text": " ".join(sentences)})
    return value


def read(cls: type[T], values: Any, path: str = "", *, sentence: Callable[[Fault], str | None] | None = None) -> T:
    """Return the `checked` dataclass of plain values, as YAML and JSON have them; what is left out has its default.

    Args:
        path: name of the class in messages, such as "objective".
        sentence: makes the sentence about a fault, or None for the usual one.

    Raises:
        ConfigError: unknown and missing settings, wrong types and values out of range: every fault, by its full name.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'The configuration'} is {shown(values)}: give a mapping of settings.")
    made: T = _validated(cls, dict(values), path, sentence)
    return made


def declared(cls: type, name: str) -> Setting:
    """Return the declaration of a setting of a `checked` dataclass. Raises KeyError where there is none."""
    found = _setting(_hints(cls)[name])
    if found is None:
        raise KeyError(name)
    return found


def _validated(
    cls: Any, values: dict[str, Any], path: str, sentence: Callable[[Fault], str | None] | None = None
) -> Any:
    from pydantic import ValidationError

    conflicts: Callable[[Mapping[str, Any]], Iterator[str]] | None = getattr(cls, "conflicts", None)
    faults: list[str] = []
    try:
        made = _adapter(cls).validate_python(values)
        right = vars(made)
    except ValidationError as error:
        found = _Faults(cls, values, path, sentence)
        faults = found.sentences(error.errors(include_url=False))
        right = {item.name: item.default for item in dataclasses.fields(cls)}
        right = {name: value for name, value in (right | values).items() if name not in found.top_names}
    if conflicts is not None:
        faults += conflicts(right)
    if faults:
        raise ConfigError(" ".join(faults))
    return made


@functools.cache
def _adapter(cls: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass, with its `Setting`."""
    hints = get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def _setting(hint: Any) -> Setting | None:
    return next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Setting)), None)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _sections(hint: Any) -> tuple[Any, ...]:
    """Return the dataclasses of which a field holds one; none where it holds something else."""
    kinds = _alternatives(_bare(hint))
    return kinds if all(map(dataclasses.is_dataclass, kinds)) else ()


def _strict(kind: Any, setting: Setting) -> Any:
    """Return the type as pydantic is to check it."""
    from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

    bounds = {"ge": setting.least, "le": setting.most, "gt": setting.above, "lt": setting.below}
    limits: dict[str, Any] = {name: bound for name, bound in bounds.items() if abs(bound) != inf}

    def strict(part: Any) -> Any:
        origin, parts = get_origin(part), get_args(part)
        if origin in (Union, types.UnionType):
            return Union[tuple(map(strict, parts))]  # noqa: UP007 # the members are not known by name
        if origin is tuple:
            return tuple[tuple(each if each is Ellipsis else strict(each) for each in parts)]  # type: ignore[misc]
        if part is float:
            number: Any = Annotated[float, Field(strict=True, allow_inf_nan=False, **limits)]
            return Annotated[number, BeforeValidator(_refuse_whole)] if setting.exact else number
        if part is int:
            return Annotated[int, Field(strict=True, multiple_of=2 if setting.even else None, **limits)]
        if part is str and setting.choices:
            return Literal[setting.choices]
        return Annotated[part, Field(strict=True)] if part in (str, bool) else part

    if len(sections := _sections(kind)) > 1:
        tagged = tuple(Annotated[section, Tag(section.name)] for section in sections)
        return Annotated[Union[tagged], Discriminator(lambda value: _name_of(sections, value))]  # noqa: UP007
    found = strict(kind)
    return found if setting.check is None else Annotated[found, AfterValidator(functools.partial(_obey, setting.check))]


def _obey(check: Callable[[Any], str], value: Any) -> Any:
    from pydantic_core import PydanticCustomError

    if clause := check(value):
        raise PydanticCustomError("broken_rule", "{clause}", {"clause": clause})
    return value


def _refuse_whole(value: Any) -> Any:
    from pydantic_core import PydanticCustomError

    if isinstance(value, int):
        raise PydanticCustomError("float_type", "a whole number")
    return value


def _name_of(sections: tuple[Any, ...], value: Any) -> str | None:
    """Return the name that chooses among several dataclasses; without one it is the first's."""
    name = value.get("name", sections[0].name) if isinstance(value, Mapping) else getattr(value, "name", None)
    if not isinstance(value, Mapping) and not isinstance(value, sections):
        name = sections[0].name
    return name if isinstance(name, str) else None


@dataclass
class _Faults:
    """What pydantic found wrong with the values of a class, as our sentences.

    Attributes:
        top_names: settings and sections of the class itself that have a fault.
    """

    cls: type
    values: Mapping[str, Any]
    path: str
    sentence: Callable[[Fault], str | None] | None

    def __post_init__(self) -> None:
        self.top_names: set[Any] = set()

    def sentences(self, errors: Sequence[Any]) -> list[str]:
        """Return a sentence for each setting with a fault, in the order of the values; what is missing comes last."""
        found: dict[str, tuple[list[int], str]] = {}
        for error in errors:
            self.top_names.update(error["loc"][:1])
            place, name, text = self._about(error)
            found.setdefault(name, (place, text))
        return [text for _, text in sorted(found.values(), key=lambda each: each[0])]

    def _about(self, error: Any) -> tuple[list[int], str, str]:
        """Return where a fault comes in the values, the name of the setting, and the sentence."""
        holder, name, above, place = self.cls, self.path, self.path, list[int]()
        value: Any = self.values
        hint: Any = None
        steps = list(error["loc"])
        while steps and (hint is None or _sections(hint)):
            step = steps.pop(0)
            keys = list(value) if isinstance(value, Mapping) else []
            place.append(keys.index(step) if step in keys else len(keys))
            above, name = name, _join(name, str(step))
            hint = _hints(holder).get(str(step))
            value = value.get(step) if isinstance(value, Mapping) else None
            if hint is None:
                break
            kinds = _sections(hint)
            if len(kinds) > 1 and steps:
                chosen = steps.pop(0)
                holder = next(kind for kind in kinds if kind.name == chosen)
            elif kinds and steps:
                holder = kinds[0]
        return place, name, self._describe_fault(error, holder, name, above, hint, value)

    def _describe_fault(self, error: Any, holder: type, name: str, above: str, hint: Any, value: Any) -> str:
        if error["type"] == "broken_rules":
            return str(error["ctx"]["text"])
        fault = Fault(_kind(error, hint), name, value, None if hint is None else _bare(hint))
        own = self.sentence(fault) if self.sentence else None
        if own is not None:
            return own
        if fault.kind == "unknown":
            return _unknown(name, _names(holder, above))
        if fault.kind == "missing":
            return f"The setting {name} is missing: give it a value."
        if error["type"].startswith("union_tag"):
            wanted = value.get("name") if isinstance(value, Mapping) else value
            return f"{name}.name is {shown(wanted)}: give {' or '.join(each.name for each in _sections(hint))}."
        if _sections(hint):
            return f"{name} is {shown(value)}: give a mapping of settings."
        setting = _setting(hint) or Setting("")
        if fault.kind == "range":
            clause = error["ctx"]["clause"] if error["type"] == "broken_rule" else setting.range_clause(fault.type)
            return f"{name} is {shown(_as_read(fault.type, value))}: {clause}."
        return f"{name} is {shown(value)}: {setting.type_clause(fault.type)}."


def _kind(error: Any, hint: Any) -> Literal["unknown", "missing", "type", "range"]:
    if error["type"] in _UNKNOWN or hint is None:
        return "unknown"
    if error["type"] == "missing" and not isinstance(error["loc"][-1], int):  # a tuple lacks its parts by number
        return "missing"
    return "range" if error["type"] in _OUT_OF_RANGE else "type"


def _as_read(kind: Any, value: Any) -> Any:
    """Return a value of the right type as the setting would have it."""
    for part in _alternatives(kind):
        if get_origin(part) is tuple and isinstance(value, list | tuple):
            return tuple(_as_read(get_args(part)[0], each) for each in value)
        if part is float and isinstance(value, int | float):
            return float(value)
    return value


def _unknown(name: str, known: Sequence[str]) -> str:
    last = name.rpartition(".")[2]
    initials = "".join(word[:1] for word in last.split("_"))  # lr for learning_rate
    same_end = [other for other in known if other.rpartition(".")[2] in (last, initials)]
    near = same_end or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"The nearest: {', '.join(near)}." if near else f"There are: {', '.join(known)}."
    return f"There is no setting {name}. {hint}"


def _names(cls: type, path: str) -> list[str]:
    """Return the dotted names of all settings of the dataclass `cls` and of the dataclasses within it."""
    names: dict[str, None] = {}
    for own, hint in _hints(cls).items():
        name = _join(path, own)
        within = [inner for kind in _sections(hint) for inner in _names(kind, name)]
        names |= dict.fromkeys(within or [name])
    return list(names)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _format_bound(bound: int | float) -> str:
    return f"{bound:,.0f}" if bound == int(bound) else f"{bound:g}"


def _describe(kind: Any) -> str:
    if len(_alternatives(kind)) > 1:
        return " or ".join(map(_describe, _alternatives(kind)))
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(get_args(kind))
    if origin is tuple:
        return f"a list of {_describe(get_args(kind)[0]).removeprefix('a ')}s"
    if origin is not None:
        return "a mapping"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    return names.get(kind, str(kind))
