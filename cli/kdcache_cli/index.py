"""`kdcache index`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache.errors import BadSamplesError, UsageError
from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.options import DEFAULT_DATA, RendererName


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
        bool, typer.Option("--unlabelled", help="Index samples without labels, or ignore their labels.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Decode every image, list the bad ones, and store a checksum of the others."),
    ] = False,
    drop_bad: Annotated[
        bool,
        typer.Option(
            "--drop-bad",
            help="Do --check, and leave bad images out of the index; caches dumped before are refused afterwards.",
        ),
    ] = False,
    mark_bad: Annotated[
        bool,
        typer.Option(
            "--mark-bad",
            help="Do --check, and mark bad images as lost: caches of these data stay usable, and training skips the "
            "images.",
        ),
    ] = False,
    renderer: Annotated[
        RendererName,
        typer.Option(
            "--renderer", help="With --check: pillow tries only Pillow's decoders; dali tries DALI's as well."
        ),
    ] = "dali",
    fraction: Annotated[
        float | None,
        typer.Option(
            "--fraction", metavar="F", help="Share of the samples, from 0 to 1, for a smaller index in --out."
        ),
    ] = None,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="With --fraction: take this share of every class.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="With --fraction: folder of the smaller index, which other commands take as DATA.",
        ),
    ] = None,
) -> None:
    """Build the index of shards if it is missing or stale, and print its contents.

    Other commands build it automatically. --check exits with 3 if there are bad samples, unless they are left out or
    marked as lost.
    """
    if (fraction is None) != (out is None) or (stratified and fraction is None):
        raise UsageError("--fraction, --out and --stratified make a smaller index: give --fraction F --out FOLDER.")
    check = check or drop_bad or mark_bad
    if fraction is not None and check:
        raise UsageError("Check the whole first (--check), then take a part of it (--fraction).")

    if renderer != "dali" and not check:
        raise UsageError("--renderer chooses the decoders of a check: give it with --check, --mark-bad or --drop-bad.")

    progress = ConsoleProgress()
    if check:
        from kdcache.inspection.check import check as check_data

        try:
            checked = check_data(
                data,
                drop_bad=drop_bad,
                mark_bad=mark_bad,
                unlabelled=unlabelled,
                renderer=renderer,
                progress=progress,
            )
        except BadSamplesError as error:
            print_lines(error.samples)
            raise
        print_lines(f"left out {sample}" for sample in checked.bad)
        print_lines(f"lost {sample}" for sample in checked.lost)
        found = checked.index
    else:
        from kdcache.data.index import open_index

        found = open_index(data, unlabelled=unlabelled, progress=progress)
    if fraction is not None and out is not None:
        from kdcache.data.part import write_part

        found = write_part(found, fraction, out, stratified=stratified, progress=progress)
    classes = f"{found.num_classes:,} classes" if found.num_classes else "no labels"
    shards = len(found.shards)
    images = "not checked" if found.crc is None else f"checked, {found.left_out:,} bad ones left out"
    if len(found.lost):
        images += f", {len(found.lost):,} marked as lost"
    print_lines(
        [
            f"{len(found):,} samples, {classes}, {shards:,} shard{'s' * (shards != 1)}",
            f"images {images}",
            f"fingerprint {found.fingerprint}",
            f"index {found.path}",
        ]
    )
