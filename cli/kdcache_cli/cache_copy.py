"""`kdcache cache copy`."""

from dataclasses import dataclass

import typer

from kdcache.inspection.options import CopyOptions
from kdcache.runtime.arguments import values_of
from kdcache_cli.console import ConsoleProgress, print_json, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson
from kdcache_cli.verify import NOT_READ, NOT_WHOLE


@dataclass(frozen=True)
class CopyCommand(CopyOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _copy(options: CopyCommand) -> None:
    from kdcache.inspection.copy import copy_cache

    report = copy_cache(CopyOptions(**values_of(CopyOptions, options)), ConsoleProgress())
    if options.as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())
    if not report.whole:
        raise typer.Exit(NOT_WHOLE if report.damaged else NOT_READ)


copy = command_from(
    CopyCommand,
    _copy,
    """Copy a cache or a part of it, and verify every chunk while it is copied.

    If the command is stopped, the same command continues where it stopped. It exits with 3 if damaged blocks were left
    out, and with 1 if blocks were left out only because they could not be read.
    """,
)
