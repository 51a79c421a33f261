"""`kdcache index`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdcache.errors import BadSamplesError, UsageError
from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.options import DEFAULT_DATA, RendererName

if TYPE_CHECKING:
    from kdcache.data.index import Index


def index(
    data: Annotated[
        str,
        typer.Argument(
            envvar="KDCACHE_DATA",
            metavar="DATA",
            help="Webdataset shards: a folder of tars, or a brace pattern; or a URL of either.",
        ),
    ] = DEFAULT_DATA,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Take samples without labels, or leave their labels out.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Decode every image, list the bad ones, and keep a checksum of the others."),
    ] = False,
    drop_bad: Annotated[
        bool, typer.Option("--drop-bad", help="Do --check, and leave the bad ones out of the index.")
    ] = False,
    renderer: Annotated[
        RendererName,
        typer.Option("--renderer", help="With --check: pillow asks Pillow's decoders alone, dali asks DALI's as well."),
    ] = "dali",
    fraction: Annotated[
        float | None,
        typer.Option("--fraction", metavar="F", help="Make a smaller index of this share of the samples, in --out."),
    ] = None,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="With --fraction: take that share of every class.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="With --fraction: the folder that other commands take as DATA."),
    ] = None,
) -> None:
    """Build the index of shards if it is missing or stale, and say what it holds.

    Other commands do this by themselves. --check exits with 3 when there are bad samples, unless they are left out.
    """
    if (fraction is None) != (out is None) or (stratified and fraction is None):
        raise UsageError("--fraction, --out and --stratified make a smaller index: give --fraction F --out FOLDER.")
    if fraction is not None and (check or drop_bad):
        raise UsageError("Check the whole first (--check), then take a part of it (--fraction).")

    if renderer != "dali" and not (check or drop_bad):
        raise UsageError("--renderer says whose decoders are asked: give it with --check or --drop-bad.")

    progress = ConsoleProgress()
    if check or drop_bad:
        found = _checked(data, drop_bad, unlabelled, renderer, progress)
    else:
        from kdcache.data.index import open_index

        found = open_index(data, unlabelled=unlabelled, progress=progress)
    if fraction is not None and out is not None:
        from kdcache.data.part import write_part

        found = write_part(found, fraction, out, stratified=stratified, progress=progress)
    classes = f"{found.num_classes:,} classes" if found.num_classes else "no labels"
    shards = len(found.shards)
    images = "not checked" if found.crc is None else f"checked, {found.left_out:,} bad ones left out"
    print_lines(
        [
            f"{len(found):,} samples, {classes}, {shards:,} shard{'s' * (shards != 1)}",
            f"images {images}",
            f"fingerprint {found.fingerprint}",
            f"index {found.path}",
        ]
    )


def _checked(data: str, drop_bad: bool, unlabelled: bool, renderer: str, progress: ConsoleProgress) -> "Index":
    from kdcache.inspection.check import check

    try:
        checked = check(data, drop_bad=drop_bad, unlabelled=unlabelled, renderer=renderer, progress=progress)
    except BadSamplesError as error:
        print_lines(error.samples)
        raise
    print_lines(f"left out {sample}" for sample in checked.bad)
    return checked.index
