"""`kdcache report`."""

from kdcache.report.options import ReportOptions
from kdcache_cli.console import ConsoleProgress
from kdcache_cli.declared import command_from


def _report(options: ReportOptions) -> None:
    from kdcache.report.page import require_html

    require_html(options.out)  # before torch is imported

    from kdcache.report.report import report as run

    run(options, ConsoleProgress())


report = command_from(
    ReportOptions,
    _report,
    """Write one HTML page about one or several runs: curves, settings and cost, and what else is asked for.

    The page holds everything that it shows, and needs neither a network nor scripts.
    """,
)
