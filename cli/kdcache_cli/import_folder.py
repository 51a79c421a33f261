"""`kdcache import folder`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.options import MAX_SEED


def folder(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Tree as torchvision's ImageFolder reads it: SRC/CLASS/.../IMAGE.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, metavar="S", help="Seed of the order of the samples.")
    ] = 0,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Keep class folders without images as classes without samples.")
    ] = False,
) -> None:
    """Write a tree of images as shards, in random order, with unchanged image files and a file of class names.

    Labels number the class folders in the order of their names, or of their numbers if all names are whole numbers.
    """
    from kdcache.data.importers.folder import import_folder

    import_folder(source, out, seed=seed, allow_empty=allow_empty, progress=ConsoleProgress())
