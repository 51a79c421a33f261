"""Options that several importers have."""

from typing import TYPE_CHECKING, Annotated

import typer

from kdcache.errors import UsageError
from kdcache.io.limits import MAX_SEED

if TYPE_CHECKING:
    from kdcache.data.importers.shard_import import ImportOptions

Seed = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_SEED, metavar="S", help="Seed of the order of the samples.")
]
Resize = Annotated[
    int | None,
    typer.Option(
        "--resize",
        min=1,
        metavar="SIDE",
        help="Make the shorter side of larger images SIDE pixels, and JPEG files of them.",
        show_default="image files are copied unchanged",
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality", min=1, max=100, metavar="Q", help="With --resize: quality of the JPEG files.", show_default="90"
    ),
]


def import_options(seed: int, resize: int | None, quality: int | None) -> "ImportOptions":
    """Return the options as the importers take them. Raises UsageError for a quality without --resize."""
    from kdcache.data.importers.resizing import DEFAULT_QUALITY, Resizing
    from kdcache.data.importers.shard_import import ImportOptions

    if resize is None and quality is not None:
        raise UsageError("--quality is that of images which --resize makes smaller: give --resize SIDE as well.")
    resizing = None if resize is None else Resizing(resize, DEFAULT_QUALITY if quality is None else quality)
    return ImportOptions(seed=seed, resizing=resizing)
