"""`kdcache verify`."""

from dataclasses import dataclass
from typing import Any

import typer

from kdcache.errors import UsageError
from kdcache.inspection.options import VerifySettings
from kdcache.runtime.arguments import values_of
from kdcache_cli.console import ConsoleProgress, print_json, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson

NOT_WHOLE = 3
#: The cache could not be read, because of the disk, the network or the credentials; so it is not known to be damaged.
NOT_READ = 1


@dataclass(frozen=True)
class VerifyCommand(VerifySettings):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _verify(options: VerifyCommand) -> None:
    from kdcache import jobs

    report = jobs.verify(**_of_the_job(options), progress=ConsoleProgress())
    if options.as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())
    if not report.whole:
        raise typer.Exit(NOT_WHOLE if report.damaged else NOT_READ)


def _of_the_job(options: VerifyCommand) -> dict[str, Any]:
    """Return the options of the job; without a teacher none of the comparison, as the job refuses them."""
    if (options.data is None) != (options.teacher is None):
        raise UsageError("--data and --teacher are needed together to compute targets again: give both, or none.")
    if options.teacher is not None:
        return values_of(VerifySettings, options)
    if options.weights is not None:
        raise UsageError(f"--weights {options.weights} belongs to --teacher and --data: give these too.")
    if options.imports:
        raise UsageError(
            f"--import {options.imports[0]} belongs to --teacher and --data: give these too, or leave it out."
        )
    return {"cache": options.cache, "repair": options.repair}


verify = command_from(
    VerifyCommand,
    _verify,
    """Read the whole cache, and compare all bytes with the checksums of what was written.

    With --data and --teacher, run the teacher again on random views and compare its outputs with the cached targets.
    Exits with 3 if something is damaged, and with 1 if the cache only could not be read.
    """,
)
