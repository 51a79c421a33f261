"""`kdcache index`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdcache.errors import BadSamplesError
from kdcache.inspection.options import IndexOptions
from kdcache.runtime.arguments import values_of
from kdcache.runtime.option import OUTPUT, Option
from kdcache_cli.console import ConsoleProgress, print_json, print_lines, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson


@dataclass(frozen=True)
class IndexCommand(IndexOptions):
    """The options of the job, and how its report is shown."""

    html: Annotated[
        Path | None,
        Option(
            "Also write an HTML page: classes, sizes, broken images.",
            metavar="FILE",
            default_text="none",
            group=OUTPUT,
        ),
    ] = None
    as_json: AsJson = False


def _index(options: IndexCommand) -> None:
    if options.html is not None:
        from kdcache.report.page import require_html

        require_html(options.html)  # before the shards are read

    from kdcache.inspection.index import index as run

    try:
        report = run(IndexOptions(**values_of(IndexOptions, options)), ConsoleProgress())
    except BadSamplesError as error:
        if options.as_json:
            print_json({"bad": list(error.samples)})
        else:
            print_lines(error.samples)
        _write_page(options, error.samples)
        raise
    _write_page(options, (*report.found_bad, *report.found_lost))
    if options.as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())


def _write_page(options: IndexCommand, broken: Sequence[str]) -> None:
    if options.html is None:
        return
    from kdcache.data.index import find_index
    from kdcache.report.index_page import write_index_page

    data = options.data if options.out is None else options.out  # the index of a part, where one was made
    found = find_index(data, unlabelled=options.unlabelled)
    write_index_page(data, found, broken, options.html, ConsoleProgress())


index = command_from(
    IndexCommand,
    _index,
    """Build the index of shards if it is missing or stale, and print its contents.

    Other commands build it automatically. --check exits with 3 if there are bad samples, unless they are left out or
    marked as lost.
    """,
)
