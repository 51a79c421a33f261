"""Functions that take the fields of a dataclass of options as their own arguments."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741 # of options
R = TypeVar("R")


def with_arguments_of(options: Callable[P, O], positional: int) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Let a function of options take their fields as its own arguments; its signature and type are those of them.

    A path may be given as text or as a `Path`, whichever of them a field has.

    Args:
        options: dataclass of the options.
        positional: number of the first fields that may be given without their names.
    """
    hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(options).items()}

    def as_declared(name: str, value: Any) -> Any:
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
            return job(options(**{name: as_declared(name, value) for name, value in given.items()}))  # type: ignore[call-arg] # bound above

        result = get_type_hints(job)["return"]
        function.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined] # as PEP 362 has it
        return function

    return decorate
