"""`kdcache import hf`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.import_options import Quality, Resize, Seed, import_options


def hf(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="Folder that save_to_disk wrote, folder of parquet files, or parquet file."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Split to import.", show_default="the only one"),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="COLUMN", help="Column of the images.", show_default="the only one"),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label", metavar="COLUMN", help="Column of the labels.", show_default="the only one of classes, or label"
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes", metavar="FILE", help="List of the class names by label, where the data set has none."
        ),
    ] = None,
    seed: Seed = 0,
    resize: Resize = None,
    quality: Quality = None,
) -> None:
    """Write a Hugging Face data set as shards, in random order. It takes pyarrow: pip install 'kdcache[hf]'.

    Parquet files are first copied into OUT, for as long as the import takes. An import that was interrupted goes on
    when it is run again.
    """
    from kdcache.data.importers.hugging_face import import_hf

    options = import_options(seed, resize, quality)
    import_hf(
        source,
        out,
        split=split,
        image=image,
        label=label,
        classes=classes,
        options=options,
        progress=ConsoleProgress(),
    )
