"""The options --quiet and --verbose, which stand before a command or behind it."""

import functools
import inspect
import logging
import os
import platform
from collections.abc import Callable
from typing import Annotated, Any

import typer

import kdcache
from kdcache.errors import UsageError
from kdcache_cli.console import ConsoleProgress
from kdcache_cli.log_lines import set_level

GROUP = "Messages"

Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="Show warnings and errors alone; a report is still printed.", rich_help_panel=GROUP),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Show every message, and where an error comes from.", rich_help_panel=GROUP),
]

_log = logging.getLogger("kdcache")


def choose_level(quiet: bool, verbose: bool) -> None:
    """Show as many messages as these options say; without either, as many as before.

    Raises:
        UsageError: both are given.
    """
    if quiet and verbose:
        raise UsageError("--quiet shows fewer messages and --verbose more: give one of them.")
    if quiet or verbose:
        set_level(logging.WARNING if quiet else logging.DEBUG)


def with_messages(command: Callable[..., None], note: bool) -> Callable[..., None]:
    """Return a command that also takes --quiet and --verbose.

    Args:
        note: whether it tells what kdcache had to assume about the user's account; of several processes one does.
    """
    options = {"quiet": Quiet, "verbose": Verbose}

    @functools.wraps(command)
    def function(quiet: bool = False, verbose: bool = False, **values: Any) -> None:
        choose_level(quiet, verbose)
        if note and kdcache.account.NOTE is not None and os.environ.get("RANK", "0") == "0":
            ConsoleProgress().say(kdcache.account.NOTE)
        _log.debug("kdcache %s, Python %s: %s", kdcache.__version__, platform.python_version(), values)
        command(**values)

    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hint)
        for name, hint in options.items()
    ]
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inspect.signature(command).parameters.values()
    ]
    function.__signature__ = inspect.Signature([*parameters, *own])  # type: ignore[attr-defined]
    function.__annotations__ = {**command.__annotations__, **options}
    return function
