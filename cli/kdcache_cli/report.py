"""`kdcache report`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.options import DeviceOption, ImportsOption, RendererOption


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, also of trainings that go on.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Labelled shards on which the students are scored, for the reliability diagram.",
            show_default="none",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="MODEL",
            help="Teacher or run that the students are compared with on --data: agreement and KL.",
            show_default="none",
        ),
    ] = None,
    reference_weights: Annotated[
        Path | None,
        typer.Option(
            "--reference-weights",
            metavar="FILE",
            help="Weights of the reference, as --weights of `kdcache evaluate` takes them.",
            show_default="its own",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option("--cache", metavar="PATH", help="Cache that the page describes.", show_default="none"),
    ] = None,
    cache_data: Annotated[
        str | None,
        typer.Option(
            "--cache-data",
            metavar="DATA",
            help="Shards of the cache, for the gallery and for statistics that need labels.",
            show_default="none",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", metavar="NAME", help="Teacher that the gallery shows.", show_default="the cache's only one"
        ),
    ] = None,
    device: DeviceOption = "auto",
    renderer: RendererOption = "dali",
    imports: ImportsOption = None,
) -> None:
    """Write one HTML page about one or several runs: curves, settings and cost, and what else is asked for.

    The page holds everything that it shows, and needs neither a network nor scripts.
    """
    from kdcache.report.page import require_html

    require_html(out)  # before torch is imported

    from kdcache.report.report import ReportOptions
    from kdcache.report.report import report as run

    run(
        ReportOptions(
            runs=tuple(runs),
            out=out,
            data=data,
            reference=reference,
            reference_weights=reference_weights,
            cache=cache,
            cache_data=cache_data,
            teacher=teacher,
            device=device,
            renderer=renderer,
            imports=tuple(imports or ()),
        ),
        ConsoleProgress(),
    )
