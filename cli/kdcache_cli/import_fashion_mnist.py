"""`kdcache import fashion-mnist`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from kdcache.io.limits import MAX_SEED
from kdcache_cli.console import ConsoleProgress


def fashion_mnist(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    split: Annotated[Literal["train", "test"], typer.Option("--split", help="Part of the data set.")] = "train",
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="DIR",
            help="Folder with the four original files, or `sample` for the images that kdcache ships.",
            show_default="Debian's dataset-fashion-mnist where it is installed, else sample",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Number of samples to import.", show_default="all"),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, metavar="S", help="Seed of the order of the samples.")
    ] = 0,
) -> None:
    """Write Fashion-MNIST (28x28, 10 classes, MIT licence) as shards, in random order."""
    from kdcache.data.importers.fashion_mnist import import_fashion_mnist

    import_fashion_mnist(out, split=split, source=source, limit=limit, seed=seed, progress=ConsoleProgress())
