"""Declarations of options: each one once, in the dataclass of a job's options, from where the command line takes it.

    epochs: Annotated[int | None, Option("Number of passes over the data.", metavar="E", minimum=1)] = None

Python callers give such a field as an argument; its type is text where the command line offers choices, so that a
wrong value ends with the job's own sentence. The command line makes an option "--epochs" of it, with this help,
these limits and this default (`kdcache_cli/declared.py`).
"""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal, get_type_hints

from kdcache.io.checked import Setting

#: Groups of options in --help; options without a group come first.
MODEL, VIEWS, TARGETS, SETTINGS = "Model", "Views", "Targets", "Settings"
COMPARISON, COMPUTING, OUTPUT = "Comparison", "Computing", "Output"

#: What a value names, so that a shell can complete it.
Names = Literal["teacher", "student", "recipe", "policy", "objective", "setting", "entry"]


@dataclass(frozen=True)
class Option:
    """How a field of a job's options is given on the command line.

    Attributes:
        help: one or two sentences for --help.
        flag: its name; None for that of the field, with dashes.
        metavar: what stands for a value in --help; None for what follows from the type.
        choices: the values that are taken; empty where any text is.
        minimum, maximum: limits of a number, both included; None for no limit.
        default_text: what --help shows as the default where that is no plain value.
        envvar: environment variable that is read where the option is not given.
        setting: dotted name of the setting of a training that it stands for; None for none.
        group: heading in --help under which it is shown; None for the first group.
        is_argument: whether it is given by its place, without a flag.
        separator: what separates the values of a tuple that is given as one text; None where the option is repeated.
        names: what kind of thing a value names, for completion by the shell.
    """

    help: str
    flag: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    default_text: str | None = None
    envvar: str | None = None
    setting: str | None = None
    group: str | None = None
    is_argument: bool = False
    separator: str | None = None
    names: Names | None = None


def options_by_field(cls: type) -> dict[str, Option]:
    """Return the option of each field of a dataclass of a job's options."""
    hints = get_type_hints(cls, include_extras=True)
    parts = ((name, part) for name, hint in hints.items() for part in getattr(hint, "__metadata__", ()))
    return {name: part for name, part in parts if isinstance(part, Option)}


def option_of(declaration: Setting, /, **further: Any) -> Option:
    """Return the option of a setting of a configuration: help and limits are the setting's.

    Args:
        declaration: of the setting (`kdcache.io.checked.declared`).
        further: `setting`, and what only the command line needs: `flag`, `metavar`, `default_text`, `group`, `names`.
    """
    least, most = max(declaration.least, declaration.above), min(declaration.most, declaration.below)
    return Option(
        declaration.help,
        choices=declaration.choices,
        minimum=None if least == -inf else least,
        maximum=None if most == inf else most,
        **further,
    )
