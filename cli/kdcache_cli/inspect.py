"""`kdcache inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_json, print_lines
from kdcache_cli.options import CacheArgument, JsonOption


def inspect(
    cache: CacheArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Shards of the cache, for the statistics that need labels.",
            show_default="none",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=1, metavar="N", help="Number of targets of each teacher that are read for the statistics."
        ),
    ] = 100_000,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write the report as an HTML page.", show_default="none"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the data set and policy of a cache, its complete and missing views, and statistics of its targets."""
    if html is not None:
        from kdcache.report.page import require_html

        require_html(html)  # before the cache is read

    from kdcache import jobs

    report = jobs.inspect(cache, data=data, samples=samples, progress=ConsoleProgress())
    if html is not None:
        from kdcache.report.report import write_inspection

        write_inspection(report, html, ConsoleProgress())
    if as_json:
        print_json(report.to_json())
    else:
        print_lines(report.lines())
