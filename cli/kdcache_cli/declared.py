"""Commands made from the dataclasses of their jobs' options: no option is written down a second time here."""

import dataclasses
import inspect
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from kdcache.runtime.option import Option
from kdcache_cli.completion import completer

T = TypeVar("T")


def typer_option(name: str, option: Option, is_flag: bool = False) -> Any:
    """Return typer's declaration of an option, or of an argument.

    Args:
        name: of the field, from which the flag follows where the option has none.
        is_flag: whether the option takes no value.
    """
    settings: dict[str, Any] = {"help": option.help, "rich_help_panel": option.group}
    if not is_flag:
        settings |= {"metavar": option.metavar, "envvar": option.envvar}
        settings |= {"min": option.minimum, "max": option.maximum}
    if option.default_text is not None:
        settings["show_default"] = option.default_text
    if option.names is not None:
        settings["autocompletion"] = completer(option.names)
    if option.names == "setting":
        settings["callback"] = _require_assignments
    if option.is_argument:
        return typer.Argument(**settings)
    return typer.Option(option.flag or f"--{name.replace('_', '-')}", **settings)


def _require_assignments(value: list[str] | None) -> list[str]:
    """Refuse `--set NAME VALUE` by its own name, before VALUE is refused as one argument too many."""
    from kdcache.training.settings import split_assignment

    given = value or []
    for assignment in given:
        split_assignment(assignment)
    return given


def command_from(options: type[T], run: Callable[[T], None], doc: str) -> Callable[..., None]:
    """Return a command that calls `run` with an instance of a dataclass, whose fields are the command's options.

    Args:
        options: a dataclass; each field is `Annotated` with its `Option`.
        run: the command.
        doc: its help.

    Raises:
        TypeError: a field without an `Option`.
    """
    hints = get_type_hints(options, include_extras=True)
    fields = dataclasses.fields(options)  # type: ignore[arg-type] # mypy has no type of dataclasses
    declared = {field.name: _option_of(field.name, hints[field.name]) for field in fields}
    # What has to be given comes first, and of that what is given by its place.
    fields_in_order = sorted(
        fields, key=lambda field: (not declared[field.name].is_argument, field.default is not dataclasses.MISSING)
    )
    parameters = [_parameter(field, hints[field.name], declared[field.name]) for field in fields_in_order]

    def command(**values: Any) -> None:
        run(options(**{name: _value(hints[name], declared[name], value) for name, value in values.items()}))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = doc
    return command


def _option_of(name: str, hint: Any) -> Option:
    parts = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    for part in parts:
        if isinstance(part, Option):
            return part
    raise TypeError(f"The field {name} has no Option: declare it as Annotated[type, Option(help)].")


def _parameter(field: dataclasses.Field[Any], hint: Any, option: Option) -> inspect.Parameter:
    kind = get_args(hint)[0]
    default: Any = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    if get_origin(kind) is tuple:  # typer knows what may be given many times as a list
        element = get_args(kind)[0]
        kind = element if option.separator else list[element]  # type: ignore[valid-type]
        if default is not inspect.Parameter.empty:
            kind, default = kind | None, None
    if option.choices:
        taken: Any = Literal[option.choices]
        kind = taken | None if NoneType in get_args(kind) else taken
    is_flag = kind is bool or bool in get_args(kind)
    annotation: Any = Annotated[kind, typer_option(field.name, option, is_flag)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _value(hint: Any, option: Option, value: Any) -> Any:
    if get_origin(get_args(hint)[0]) is not tuple:
        return value
    if option.separator and value:
        return tuple(part.strip() for part in value.split(option.separator) if part.strip())
    return tuple(value or ())
