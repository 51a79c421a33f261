"""`kdcache inspect`."""

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
    as_json: JsonOption = False,
) -> None:
    """Print the data set and policy of a cache, its complete and missing views, and statistics of its targets."""
    from kdcache import jobs

    report = jobs.inspect(cache, data=data, samples=samples, progress=ConsoleProgress())
    if as_json:
        print_json(report.to_json())
    else:
        print_lines(report.lines())
