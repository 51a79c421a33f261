"""`kdcache import folder`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.options import MAX_SEED


def folder(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A torchvision ImageFolder tree: SRC/CLASS/.../IMAGE.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the shards.")],
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, metavar="S", help="Fixes the order of the samples.")
    ] = 0,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Keep class folders without images as classes that have none.")
    ] = False,
) -> None:
    """Write a tree of images as shards, in random order, files copied as they are, class names beside them.

    Labels are the class folders' places by name, or by number where all names are whole numbers.
    """
    from kdcache.data.importers.folder import import_folder

    import_folder(source, out, seed=seed, allow_empty=allow_empty, progress=ConsoleProgress())
