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
            help="How views are drawn: a name from `kdcache policies`, or a JSON or YAML file.",
            show_default="the cache's, or a2",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", metavar="PATH", help="Show the views of this cache, with the teacher's likeliest classes."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="NAME", help="Whose answers.", show_default="the cache's only one"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write: .html or .png.")] = Path(
        "preview.html"
    ),
    images: Annotated[int, typer.Option("--images", min=1, max=1000, metavar="N", help="How many images.")] = 6,
    views: Annotated[int, typer.Option("--views", min=1, max=100, metavar="V", help="How many views of each.")] = 4,
    sample: Annotated[
        list[str] | None,
        typer.Option("--sample", metavar="KEY", help="Show the image with this key; give it several times for more."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=MAX_SEED, metavar="S", help="Fixes every view.", show_default="the cache's, or 0"
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=8,
            max=1024,
            metavar="PIXELS",
            help="Of a view's sides.",
            show_default="the policy's, mostly 224",
        ),
    ] = None,
    renderer: RendererOption = "dali",
) -> None:
    """Look at views: a contact sheet of images by views, mixed pairs side by side, the plan in words under each."""
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
