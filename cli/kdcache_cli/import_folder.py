"""`kdcache import folder`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.import_options import Quality, Resize, Seed, import_options


def folder(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Tree as torchvision's ImageFolder reads it: SRC/CLASS/.../IMAGE.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    seed: Seed = 0,
    resize: Resize = None,
    quality: Quality = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Keep class folders without images as classes without samples.")
    ] = False,
) -> None:
    """Write a tree of images as shards, in random order, with unchanged image files and a file of class names.

    An import that was interrupted goes on when it is run again.

    Labels number the class folders in the order of their names, or of their numbers if all names are whole numbers.
    """
    from kdcache.data.importers.folder import import_folder

    resizing = import_options(seed, resize, quality).resizing
    import_folder(source, out, seed=seed, allow_empty=allow_empty, resizing=resizing, progress=ConsoleProgress())
