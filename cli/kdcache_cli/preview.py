"""`kdcache preview`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress
from kdcache_cli.options import DEFAULT_DATA, MAX_SEED, DataOption, RendererOption


def preview(
    data: DataOption = DEFAULT_DATA,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="NAME_OR_FILE",
            help="Policy of the views: a name from `kdcache policies`, or a JSON or YAML file.",
            show_default="the cache's, or a2",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", metavar="PATH", help="Cache whose views are shown, with the teacher's likeliest classes."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", metavar="NAME", help="Teacher whose targets are shown.", show_default="the cache's only one"
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write: .html or .png.")] = Path(
        "preview.html"
    ),
    images: Annotated[int, typer.Option("--images", min=1, max=1000, metavar="N", help="Number of images.")] = 6,
    views: Annotated[
        int, typer.Option("--views", min=1, max=100, metavar="V", help="Number of views of each image.")
    ] = 4,
    sample: Annotated[
        list[str] | None,
        typer.Option("--sample", metavar="KEY", help="Key of an image to show; may be given several times."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=MAX_SEED, metavar="S", help="Seed of the views.", show_default="the cache's, or 0"
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=8,
            max=1024,
            metavar="PIXELS",
            help="Pixels per side of a view.",
            show_default="the policy's, usually 224",
        ),
    ] = None,
    renderer: RendererOption = "dali",
) -> None:
    """Write a contact sheet of images and their views, mixed pairs side by side, with the plan of each view as text."""
    from kdcache.inspection.contact_sheet import require_format

    require_format(out)  # before torch is imported

    from kdcache.inspection.preview import PreviewOptions
    from kdcache.inspection.preview import preview as run

    run(
        PreviewOptions(
            data=data,
            out=out,
            policy=policy,
            seed=seed,
            cache=cache,
            teacher=teacher,
            images=images,
            views=views,
            samples=tuple(sample or ()),
            size=size,
            renderer=renderer,
        ),
        ConsoleProgress(),
    )
