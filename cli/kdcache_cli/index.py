"""`kdcache index`."""

from dataclasses import dataclass

from kdcache.errors import BadSamplesError
from kdcache.inspection.options import IndexOptions
from kdcache_cli.console import ConsoleProgress, print_json, print_lines, print_report
from kdcache_cli.declared import command_from, values_of
from kdcache_cli.options import AsJson


@dataclass(frozen=True)
class IndexCommand(IndexOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _index(options: IndexCommand) -> None:
    from kdcache.inspection.index import index as run

    try:
        report = run(IndexOptions(**values_of(IndexOptions, options)), ConsoleProgress())
    except BadSamplesError as error:
        if options.as_json:
            print_json({"bad": list(error.samples)})
        else:
            print_lines(error.samples)
        raise
    if options.as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())


index = command_from(
    IndexCommand,
    _index,
    """Build the index of shards if it is missing or stale, and print its contents.

    Other commands build it automatically. --check exits with 3 if there are bad samples, unless they are left out or
    marked as lost.
    """,
)
