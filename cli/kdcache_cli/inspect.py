"""`kdcache inspect`."""

from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_json, print_lines
from kdcache_cli.options import CacheArgument, JsonOption


def inspect(
    cache: CacheArgument,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="The shards, for what needs labels.", show_default="none"),
    ] = None,
    samples: Annotated[
        int,
        typer.Option("--samples", min=1, metavar="N", help="How many answers of each teacher are looked at."),
    ] = 100_000,
    as_json: JsonOption = False,
) -> None:
    """Say what a cache belongs to, what it holds and lacks, and what the answers in it look like."""
    from kdcache.inspection.inspect import InspectOptions
    from kdcache.inspection.inspect import inspect as run

    report = run(InspectOptions(cache=cache, data=data, samples=samples), ConsoleProgress())
    if as_json:
        print_json(report.to_json())
    else:
        print_lines(report.lines())
