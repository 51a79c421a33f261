"""`kdcache import imagenet`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.import_options import Quality, Resize, Seed, import_options


def imagenet(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="ILSVRC2012_img_train.tar, or ILSVRC2012_img_val.tar; read without unpacking."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    devkit: Annotated[
        Path | None,
        typer.Option(
            "--devkit",
            metavar="FILE",
            help="For the validation images: ILSVRC2012_devkit_t12.tar.gz, or the folder that it unpacks to.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="In its place: a list with a line for each image, WNID, NAME WNID, NAME LABEL or LABEL.",
        ),
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="Accept other classes than all 1,000 of ImageNet-1k.")
    ] = False,
    seed: Seed = 0,
    resize: Resize = None,
    quality: Quality = None,
) -> None:
    """Write ImageNet-1k as shards, in random order, with the classes in the order of timm's weights.

    Shards are those that `import folder` makes of the unpacked images. An import that was interrupted goes on when it
    is run again.
    """
    from kdcache.data.importers.imagenet import import_imagenet

    options = import_options(seed, resize, quality)
    import_imagenet(
        source, out, devkit=devkit, labels=labels, subset=subset, options=options, progress=ConsoleProgress()
    )
