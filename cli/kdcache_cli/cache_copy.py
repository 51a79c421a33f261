"""`kdcache cache copy`."""

from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.verify import NOT_READ, NOT_WHOLE


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The cache to copy.")],
    target: Annotated[
        str, typer.Argument(metavar="DST", help="Path of the copy; a cache of the same views may exist there.")
    ],
    views: Annotated[
        str | None,
        typer.Option(
            "--views",
            metavar="A:B",
            help="Only views A to B - 1 (from the first on without A, to the last without B), or view A alone, given "
            "as A. Views keep their numbers.",
            show_default="all",
        ),
    ] = None,
    teachers: Annotated[
        str | None,
        typer.Option("--teachers", metavar="NAME,...", help="Only the targets of these teachers.", show_default="all"),
    ] = None,
) -> None:
    """Copy a cache or a part of it, and verify every chunk while it is copied.

    If the command is stopped, the same command continues where it stopped. It exits with 3 if damaged blocks were left
    out, and with 1 if blocks were left out only because they could not be read.
    """
    from kdcache.inspection.copy import CopyOptions, copy_cache

    names = tuple(name.strip() for name in teachers.split(",") if name.strip()) if teachers else ()
    request = CopyOptions(source=source, target=target, views=views, teachers=names)
    report = copy_cache(request, ConsoleProgress())
    print_lines(report.lines())
    if not report.whole:
        raise typer.Exit(NOT_WHOLE if report.damaged else NOT_READ)
