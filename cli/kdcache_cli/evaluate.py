"""`kdcache evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_json, print_lines, print_table
from kdcache_cli.options import MAX_SEED, DeviceOption, ImportsOption, JsonOption, Precision, WeightsOption


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Run folders, RUN@epoch=N, exports, or timm model names."),
    ],
    # No default, unlike other commands: $KDCACHE_DATA and ./data are what models are trained on.
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="DATA",
            help="Labelled shards: a folder of tars, a brace pattern, or a URL. May be given several times.",
        ),
    ],
    weights: WeightsOption = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=1, metavar="S", help="Pixels per side at which models are tested.", show_default="as trained"
        ),
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(
            "--crop-pct",
            metavar="SHARE",
            help="Share of the resized image that is kept, as in timm.",
            show_default="the model's own",
        ),
    ] = None,
    bins: Annotated[
        int, typer.Option("--bins", min=1, metavar="B", help="Bins of the confidence, for ECE and reliability.")
    ] = 15,
    real_labels: Annotated[
        Path | None,
        typer.Option(
            "--real-labels",
            metavar="FILE",
            help="JSON of several right labels for each image: ImageNet-ReaL's real.json, or lists by key.",
            show_default="none",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="MODEL",
            help="A teacher or another run: agreement, KL and difference in accuracy are measured to it.",
            show_default="none",
        ),
    ] = None,
    reference_weights: Annotated[
        Path | None,
        typer.Option(
            "--reference-weights",
            metavar="FILE",
            help="Weights of the reference, as --weights takes them.",
            show_default="its own",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, metavar="S", help="Seed of the bootstrap interval.")
    ] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Number format in which the model computes.")
    ] = "fp32",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="B", help="Images per batch.")] = 256,
    imports: ImportsOption = None,
    details: Annotated[
        bool, typer.Option("--details", help="Print the reliability diagram and the accuracy of each class, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print scores of runs or models on labelled images, with timm's evaluation transform: accuracy and calibration.

    Images are decoded with Pillow on the CPU, as in timm, on every device. Under torchrun the processes share the
    images. Runs that differ in their seeds alone are also summarised by mean and standard deviation.
    """
    from kdcache import jobs
    from kdcache.runtime.ranks import Ranks

    table = jobs.evaluate(
        models,
        data,
        weights=weights,
        image_size=size,
        device=device,
        precision=precision,
        batch_size=batch_size,
        crop_pct=crop_pct,
        bins=bins,
        real_labels=real_labels,
        reference=reference,
        reference_weights=reference_weights,
        seed=seed,
        imports=tuple(imports or ()),
        progress=ConsoleProgress(),
    )
    if not Ranks.from_environment().is_main:
        return
    if as_json:
        print_json(table.to_json())
        return
    header, *rows = table.cells()
    print_table(header, rows)
    if table.seeds:
        header, *rows = table.seed_cells()
        print_lines([""])
        print_table(header, rows)
    if details:
        print_lines(line for row in table.rows for line in ["", *row.details()])
