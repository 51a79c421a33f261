"""`kdcache inspect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdcache.inspection.options import InspectOptions
from kdcache.runtime.arguments import values_of
from kdcache.runtime.option import OUTPUT, Option
from kdcache_cli.console import ConsoleProgress, print_json, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson


@dataclass(frozen=True)
class InspectCommand(InspectOptions):
    """The options of the job, and how its report is shown."""

    html: Annotated[
        Path | None,
        Option("Also write the report as an HTML page.", metavar="FILE", default_text="none", group=OUTPUT),
    ] = None
    as_json: AsJson = False


def _inspect(options: InspectCommand) -> None:
    if options.html is not None:
        from kdcache.report.page import require_html

        require_html(options.html)  # before the cache is read

    from kdcache import jobs

    report = jobs.inspect(**values_of(InspectOptions, options), progress=ConsoleProgress())
    if options.html is not None:
        jobs.write_inspection(report, options.html, ConsoleProgress())
    if options.as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())


inspect = command_from(
    InspectCommand,
    _inspect,
    """Print the data set and policy of a cache, its complete and missing views, and statistics of its targets.""",
)
