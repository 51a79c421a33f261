"""Commands made from the dataclasses of their jobs' options: no option is written down a second time here."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from kdcache.runtime.option import Option


def typer_option(name: str, option: Option, is_flag: bool = False) -> Any:
    """Return typer's declaration of an option.

    Args:
        name: of the field, from which the flag follows where the option has none.
        is_flag: whether the option takes no value.
    """
    flag = option.flag or f"--{name.replace('_', '-')}"
    settings: dict[str, Any] = {"help": option.help}
    if not is_flag:
        settings |= {"metavar": option.metavar, "envvar": option.envvar}
        settings |= {"min": option.minimum, "max": option.maximum}
    if option.default_text is not None:
        settings["show_default"] = option.default_text
    return typer.Option(flag, **settings)


def command_from(options: type, run: Callable[[Any], None], doc: str) -> Callable[..., None]:
    """Return a command that calls `run` with an instance of a dataclass, whose fields are the command's options.

    Args:
        options: a dataclass; each field is `Annotated` with its `Option`.
        run: the command.
        doc: its help.

    Raises:
        TypeError: a field without an `Option`.
    """
    hints = get_type_hints(options, include_extras=True)
    parameters = [_parameter(field, hints[field.name]) for field in dataclasses.fields(options)]

    def command(**values: Any) -> None:
        run(options(**{name: _frozen(hints[name], value) for name, value in values.items()}))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = doc
    return command


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    declared = (
        [part for part in get_args(hint)[1:] if isinstance(part, Option)] if get_origin(hint) is Annotated else []
    )
    if not declared:
        raise TypeError(f"The field {field.name} has no Option: declare it as Annotated[type, Option(help)].")
    kind = get_args(hint)[0]
    default: Any = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    if get_origin(kind) is tuple:  # an option that may be given many times, which typer knows as a list
        kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[misc]
    if declared[0].choices:
        taken: Any = Literal[declared[0].choices]
        kind = taken | None if type(None) in get_args(kind) else taken
    annotation: Any = Annotated[kind, typer_option(field.name, declared[0], is_flag=kind is bool)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _frozen(hint: Any, value: Any) -> Any:
    return tuple(value or ()) if get_origin(get_args(hint)[0]) is tuple else value
