"""`kdcache cache push`, `pull` and `card`."""

from dataclasses import dataclass
from typing import Any

import typer

from kdcache.runtime.arguments import values_of
from kdcache.sharing.options import CardOptions, PullOptions, PushOptions
from kdcache_cli.console import ConsoleProgress, print_json, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson
from kdcache_cli.verify import NOT_READ, NOT_WHOLE


@dataclass(frozen=True)
class PushCommand(PushOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


@dataclass(frozen=True)
class PullCommand(PullOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


@dataclass(frozen=True)
class CardCommand(CardOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _push(options: PushCommand) -> None:
    from kdcache import jobs

    report = jobs.push(**values_of(PushOptions, options), progress=ConsoleProgress())
    _print(report, options.as_json)
    _exit_as_a_copy(report)


def _pull(options: PullCommand) -> None:
    from kdcache import jobs

    report = jobs.pull(**values_of(PullOptions, options), progress=ConsoleProgress())
    _print(report, options.as_json)
    _exit_as_a_copy(report)


def _card(options: CardCommand) -> None:
    from kdcache import jobs

    _print(jobs.write_card(**values_of(CardOptions, options), progress=ConsoleProgress()), options.as_json)


def _print(report: Any, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())


def _exit_as_a_copy(report: Any) -> None:
    """Exit with an error where blocks were left out."""
    if not report.whole:
        raise typer.Exit(NOT_WHOLE if report.copy.damaged else NOT_READ)


push = command_from(
    PushCommand,
    _push,
    """Bring a cache to the Hugging Face hub, with a card; every chunk is checked before it is sent.

    If the command is stopped, the same command continues where it stopped. The token is that of `hf auth login`, or
    HF_TOKEN. It exits as `kdcache cache copy` does.
    """,
)
pull = command_from(
    PullCommand,
    _pull,
    """Copy a shared cache from the Hugging Face hub or a web server, and check every chunk.

    If the command is stopped, the same command continues where it stopped. It exits as `kdcache cache copy` does.
    """,
)
card = command_from(
    CardCommand,
    _card,
    """Write a card (README.md) beside a cache, and files.json, which a web server needs to offer it.

    A README that somebody has edited is left as it is.
    """,
)
