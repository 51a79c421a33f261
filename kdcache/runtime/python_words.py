"""Messages in the words of Python: what the command line calls --batch-size is the argument batch_size there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.errors import CacheError, KdcacheError

#: Options that are arguments of the functions of Python. Not --views: `dump-logits` counts with it what is to be there,
#: and `open_cache` what is to be used.
_ARGUMENTS = "batch-size|cache|data|decode|device|precision|renderer|targets|teachers?"
_WITH_VALUE = re.compile(r"--(decode|device|precision|renderer|targets) ([a-z0-9]+)\b")
_OPTION = re.compile(rf"--({_ARGUMENTS})(?![\w-])")
#: What a loop of one's own has no argument for, and another function of Python does.
_ELSEWHERE = {
    "--online-teacher": "kdcache.train(online_teacher=...)",
    "--supervised": "kdcache.train(supervised=True)",
    "--approximate": "approximate=True",
}


def python_words(text: str) -> str:
    """Return a message with the names of arguments in place of options; a command in backticks stays as it is."""
    return "".join(part if part.startswith("`") else _translated(part) for part in re.split(r"(`[^`]*`)", text))


@contextmanager
def in_python_words() -> Iterator[None]:
    """Let errors that are raised within, or by a function that this decorates, speak of arguments and not of options.

    Errors below name the options of the command line, which meets most of them; where Python calls, there are none.
    """
    try:
        yield
    except KdcacheError as error:
        error.args = tuple(python_words(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, CacheError):
            error.problem, error.remedy = python_words(error.problem), python_words(error.remedy)
        raise


def _translated(text: str) -> str:
    for option, call in _ELSEWHERE.items():
        text = text.replace(option, call)
    text = _WITH_VALUE.sub(lambda found: f'{found[1]}="{found[2]}"', text)
    return _OPTION.sub(lambda found: found[1].replace("-", "_"), text)
