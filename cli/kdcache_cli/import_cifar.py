"""`kdcache import cifar`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.import_options import Quality, Resize, Seed, import_options


def cifar(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or the folder that it unpacks to."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    split: Annotated[Literal["train", "test"], typer.Option("--split", help="Part of the data set.")] = "train",
    labels: Annotated[
        Literal["fine", "coarse"],
        typer.Option("--labels", help="Classes; coarse are the 20 groups of CIFAR-100."),
    ] = "fine",
    seed: Seed = 0,
    resize: Resize = None,
    quality: Quality = None,
) -> None:
    """Write CIFAR-10 or CIFAR-100 (32x32) as shards of PNG images, in random order.

    The binary version is read; the Python version is refused, because reading a pickle runs code.
    """
    from kdcache.data.importers.cifar import import_cifar

    options = import_options(seed, resize, quality)
    import_cifar(source, out, split=split, labels=labels, options=options, progress=ConsoleProgress())
