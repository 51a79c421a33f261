"""`kdcache index`."""

from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.options import DEFAULT_DATA


def index(
    data: Annotated[
        str,
        typer.Argument(
            envvar="KDCACHE_DATA",
            metavar="DATA",
            help="Webdataset shards: a folder of tars, or a brace pattern.",
        ),
    ] = DEFAULT_DATA,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Take samples without labels, or leave their labels out.")
    ] = False,
) -> None:
    """Build the index of shards if it is missing or stale, and say what it holds.

    Other commands do this by themselves.
    """
    from kdcache.data.index import open_index

    found = open_index(data, unlabelled=unlabelled, progress=ConsoleProgress())
    classes = "no labels" if unlabelled else f"{found.num_classes:,} classes"
    shards = len(found.shards)
    print_lines(
        [
            f"{len(found):,} samples, {classes}, {shards:,} shard{'s' * (shards != 1)}",
            f"fingerprint {found.fingerprint}",
            f"index {found.path}",
        ]
    )
