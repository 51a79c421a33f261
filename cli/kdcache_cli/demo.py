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
    quick: Annotated[
        bool, typer.Option("--quick", help="Take every step with a few images, in seconds; the scores say nothing.")
    ] = False,
) -> None:
    """Run the main job on real images, on the CPU, in a few minutes: shards, teacher, cache, students, scores."""
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
        print_lines([f"A quick look: {epochs} epochs of {limit} images say nothing of what distillation gives."])
    else:
        print_lines(report.summary())
