"""Functions that take the fields of a dataclass of options as their own arguments."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from kdcache.errors import UsageError
from kdcache.io.plain_values import shown
from kdcache.runtime.option import Option
from kdcache.runtime.progress import logged
from kdcache.runtime.python_words import LoggedInPython, arguments_of, in_python_words

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741 # of options
R = TypeVar("R")

#: What a value of each type is called in messages.
_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    Path: "a path",
    NoneType: "None",
}


def with_arguments_of(options: Callable[P, O], positional: int) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Let a function of options take their fields as its own arguments; its signature and type are those of them.

    A path may be given as text or as a `Path`, whichever of them a field has. Values of another type, and those outside
    the limits and choices of a field's `Option`, are refused as the command line refuses them (UsageError).

    Args:
        options: dataclass of the options.
        positional: number of the first fields that may be given without their names.
    """
    hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(options).items()}
    arguments = arguments_of(options)  # type: ignore[arg-type] # a dataclass is called with its fields

    def as_declared(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple) and Ellipsis in hints[name]:  # of tuple[str, ...]
            return tuple(str(part) if isinstance(part, Path) else part for part in value)
        if isinstance(value, Path) and Path not in hints[name]:
            return str(value)
        return Path(value) if isinstance(value, str) and Path in hints[name] else value

    def decorate(job: Callable[[O], R]) -> Callable[P, R]:
        types = get_type_hints(options)  # without what only the command line needs
        fields_of = inspect.signature(options).parameters.values()
        parameters = [each.replace(annotation=types[each.name]) for each in fields_of]
        named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters[positional:]]
        signature = inspect.Signature([*parameters[:positional], *named])

        @functools.wraps(job)
        def function(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).arguments
            values = {name: as_declared(name, value) for name, value in given.items()}
            if "progress" in hints and values.get("progress", logged) is logged:
                values["progress"] = LoggedInPython(arguments)
            with in_python_words(arguments):
                require_declared(options, values)
                return job(options(**values))  # type: ignore[call-arg] # bound above

        result = get_type_hints(job)["return"]
        function.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined] # as PEP 362 has it
        return function

    return decorate


def values_of(kind: type[Any], options: object) -> dict[str, Any]:
    """Return the values of those fields of `options` that the dataclass `kind` has: a job's among a command's."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}


def require_declared(
    options: Callable[..., object], values: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> None:
    """Refuse arguments that the command line would refuse: of another type, or outside their limits or choices.

    Args:
        options: dataclass of options; fields without an `Option` take every value.
        values: arguments by the names of fields.
        names: names of arguments that differ from those of their fields.

    Raises:
        UsageError: names the argument, its value, and what may be given.
    """
    hints = get_type_hints(options, include_extras=True)
    for name, value in values.items():
        kind, *parts = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        option = next((part for part in parts if isinstance(part, Option)), None)
        if option is not None:
            _require((names or {}).get(name, name), value, kind, option)


def _require(name: str, value: Any, kind: Any, option: Option) -> None:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if all(each in _NAMES for each in kinds) and not any(_is_of(value, each) for each in kinds):
        raise UsageError(f"{name} is {shown(value)}: give {' or '.join(_NAMES[each] for each in kinds)}.")
    if get_origin(kind) is tuple and not _is_list_of_texts(value):
        first = shown(str(value)) if isinstance(value, str | Path) else "'...'"
        raise UsageError(f"{name} is {shown(value)}: give a list of texts, such as [{first}].")
    if option.choices and value is not None and value not in option.choices:
        raise UsageError(f"{name} is {shown(value)}: give {', '.join(option.choices[:-1])} or {option.choices[-1]}.")
    if not isinstance(value, Real):
        return
    number: Any = value
    is_within = (option.minimum is None or number >= option.minimum) and (
        option.maximum is None or number <= option.maximum
    )
    if not is_within:  # nor is NaN, where there is a limit
        limits = [
            f"{word} {limit}"
            for word, limit in (("at least", option.minimum), ("at most", option.maximum))
            if limit is not None
        ]
        raise UsageError(f"{name} is {shown(value)}: give {' and '.join(limits)}.")


def _is_list_of_texts(value: Any) -> bool:
    """Return whether a value is no text itself, which is a sequence of its letters."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and all(isinstance(part, str | Path) for part in value)


def _is_of(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    numbers: dict[type, type] = {int: Integral, float: Real}
    return isinstance(value, numbers.get(kind, kind))
