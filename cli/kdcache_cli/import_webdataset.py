"""`kdcache import webdataset`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache.errors import UsageError
from kdcache_cli.console import ConsoleProgress
from kdcache_cli.import_options import Quality, Resize, Seed, import_options


def webdataset(
    source: Annotated[
        str, typer.Argument(metavar="DATA", help="Webdataset shards: a folder of tars, one tar, or a brace pattern.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="COMPONENT",
            help="Component of the image, such as image.jpg.",
            show_default="the only one with an image's extension",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            metavar="COMPONENT",
            help="Component of the label: cls, txt, or json:FIELD for a field in JSON (json:A.B for one in another).",
            show_default="cls",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="List of the class names by label: a name a line, or JSON.",
            show_default="the shards' classes.json",
        ),
    ] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Leave labels out.")] = False,
    seed: Seed = 0,
    resize: Resize = None,
    quality: Quality = None,
) -> None:
    """Write webdataset shards of other projects as kdcache's own, with the same keys, in random order.

    Shards with one image and a label in `cls` need no import. An import that was interrupted goes on when it is run
    again.
    """
    from kdcache.data.importers.webdataset import import_webdataset

    if unlabelled and label is not None:
        raise UsageError("--unlabelled leaves labels out, and --label names them: give one of them.")
    import_webdataset(
        source,
        out,
        image=image,
        label=None if unlabelled else label or "cls",
        classes=classes,
        options=import_options(seed, resize, quality),
        progress=ConsoleProgress(),
    )
