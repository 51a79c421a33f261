"""`kdcache demo`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_lines, print_table
from kdcache_cli.options import MAX_SEED, RendererOption


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the shards, the cache and the runs.")
    ] = Path("demo-runs"),
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            metavar="S",
            help="Seed of the views, the students and the order of the samples.",
        ),
    ] = 0,
    renderer: RendererOption = "dali",
    quick: Annotated[
        bool, typer.Option("--quick", help="Run every step on a few images, in seconds; the scores have no meaning.")
    ] = False,
) -> None:
    """Run the quick start on real images, on the CPU, in a few minutes: shards, teacher, cache, students, scores."""
    from kdcache.demo import EPOCHS, QUICK
    from kdcache.demo import demo as run

    epochs, limit = QUICK if quick else (EPOCHS, None)
    report = run(out, ConsoleProgress(), seed=seed, renderer=renderer, epochs=epochs, limit=limit)
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
    if quick:
        print_lines(
            [f"A quick run: scores after {epochs} epochs of {limit} images do not show what distillation gains."]
        )
    else:
        print_lines(report.summary())
