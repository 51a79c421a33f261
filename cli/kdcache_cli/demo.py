"""`kdcache demo`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_lines, print_table
from kdcache_cli.options import MAX_SEED, RendererOption


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where shards, cache and run folders go.")] = Path(
        "demo-runs"
    ),
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, metavar="S", help="Fixes views, students and order.")
    ] = 0,
    renderer: RendererOption = "dali",
) -> None:
    """Run the main job on real images, on the CPU, in a few minutes: shards, teacher, cache, students, scores."""
    from kdcache.jobs.demo import demo as run

    report = run(out, ConsoleProgress(), seed=seed, renderer=renderer)
    print()
    print_table(
        ("model", "top-1", "images/s", "bytes a view", "folder"),
        [
            (
                row.name,
                f"{row.top1:.2%}",
                "-" if row.images_per_s is None else f"{row.images_per_s:,.0f}",
                "-" if row.bytes_per_view is None else f"{row.bytes_per_view:.1f}",
                row.folder,
            )
            for row in report.rows
        ],
    )
    print()
    print_table(("stage", "seconds"), [(stage, f"{seconds:.1f}") for stage, seconds in report.stages.items()])
    print()
    print_lines(report.summary())
