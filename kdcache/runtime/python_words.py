"""Messages in the words of Python: what the command line calls --batch-size is the argument batch_size there.

Jobs name the options of the command line, which meets most of their messages. Where Python calls, there are none: the
functions of `kdcache.jobs` and the loop's own ones translate at their boundary, and an error keeps its first text for
the command line, which calls the same functions.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import get_type_hints

from kdcache.errors import CacheError, KdcacheError
from kdcache.runtime.option import options_by_field
from kdcache.runtime.progress import Logged

_OPTION = re.compile(r"--([a-z][a-z0-9-]*[a-z0-9])(?![\w-])(?: ([a-z0-9_]+|[A-Z][A-Z_]*)\b(?![\w=]|\.\w))?")


@dataclass(frozen=True)
class Argument:
    """The argument of a function that an option stands for.

    Attributes:
        name: its name, or a whole call where another function has it.
        value: the value that the option alone stands for, such as "True"; None where a value follows it.
        choices: values that are quoted where they follow the option.
    """

    name: str
    value: str | None = None
    choices: tuple[str, ...] = ()


#: What a loop of one's own has by the same name, and what another function of Python has. Not --views: `dump-logits`
#: counts with it what is to be there, and `open_cache` what is to be used.
LOOP_ARGUMENTS: Mapping[str, Argument] = {
    "batch-size": Argument("batch_size"),
    "cache": Argument("cache"),
    "data": Argument("data"),
    "decode": Argument("decode", choices=("auto", "cpu", "gpu", "hardware")),
    "device": Argument("device", choices=("auto", "cpu", "cuda")),
    "precision": Argument("precision", choices=("auto", "fp32", "bf16", "fp16")),
    "renderer": Argument("renderer", choices=("dali", "pillow")),
    "targets": Argument("targets", choices=("topk", "full", "embedding")),
    "teacher": Argument("teacher"),
    "teachers": Argument("teachers"),
    "online-teacher": Argument("kdcache.train(online_teacher=...)"),
    "supervised": Argument("kdcache.train", "(supervised=True)"),
    "approximate": Argument("approximate", "=True"),
}


def arguments_of(options: type, renamed: Mapping[str, str] | None = None) -> dict[str, Argument]:
    """Return the arguments of a function by the options that stand for them, without their dashes.

    Args:
        options: dataclass of a job's options, whose fields are the function's arguments.
        renamed: arguments that are called otherwise than their fields.
    """
    hints, declared = get_type_hints(options), options_by_field(options)
    found: dict[str, Argument] = {}
    for field in fields(options):
        option = declared.get(field.name)
        if option is None or option.is_argument:
            continue
        name = (renamed or {}).get(field.name, field.name)
        on, _, off = (option.flag or f"--{field.name.replace('_', '-')}").partition("/")
        is_switch = hints[field.name] in (bool, bool | None)
        found[on[2:]] = Argument(name, "=True" if is_switch else None, option.choices)
        if off:
            found[off[2:]] = Argument(name, "=False")
    return found


def python_words(text: str, arguments: Mapping[str, Argument] = LOOP_ARGUMENTS) -> str:
    """Return a message with the names of arguments in place of options; a command in backticks stays as it is.

    Args:
        arguments: arguments by the options that stand for them; other options stay as they are.
    """

    def translated(found: re.Match[str]) -> str:
        argument, following = arguments.get(found[1]), found[2]
        if argument is None:
            return found[0]
        rest = "" if following is None else f" {following}"
        if argument.value is not None:
            return f"{argument.name}{argument.value}{rest}"
        if following in argument.choices:
            return f'{argument.name}="{following}"'
        if following is not None and following.isupper():
            return f"{argument.name}={following}"
        return f"{argument.name}{rest}"

    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _OPTION.sub(translated, part) for part in parts)


@contextmanager
def in_python_words(arguments: Mapping[str, Argument] = LOOP_ARGUMENTS) -> Iterator[None]:
    """Let errors that are raised within, or by a function that this decorates, speak of arguments and not of options.

    The text as the command line has it stays in `option_words` of the error.

    Args:
        arguments: as of `python_words`.
    """
    try:
        yield
    except KdcacheError as error:
        if error.option_words is None:
            error.option_words = str(error)
        error.args = tuple(python_words(part, arguments) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, CacheError):
            error.problem, error.remedy = (python_words(part, arguments) for part in (error.problem, error.remedy))
        raise


class LoggedInPython(Logged):
    """Passes notices and warnings to the logger `kdcache`, in the words of Python."""

    def __init__(self, arguments: Mapping[str, Argument]) -> None:
        """arguments: as of `python_words`."""
        self._arguments = arguments

    def say(self, line: str) -> None:
        """Log a notice of one line."""
        super().say(python_words(line, self._arguments))

    def warn(self, line: str) -> None:
        """Log a warning of one line."""
        super().warn(python_words(line, self._arguments))
