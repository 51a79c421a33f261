"""`kdcache evaluate`."""

from typing import Annotated

import typer

from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.options import DeviceOption, ImportsOption, Precision, WeightsOption


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run folder, RUN@epoch=N, or a timm model name.")],
    # No default, unlike other commands: $KDCACHE_DATA and ./data are what models are trained on.
    data: Annotated[
        str,
        typer.Option("--data", metavar="DATA", help="Labelled shards: a folder of tars, a brace pattern, or a URL."),
    ],
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Number format in which the model computes.")
    ] = "fp32",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="B", help="Images per batch.")] = 256,
    imports: ImportsOption = None,
) -> None:
    """Print top-1, top-5 and loss of a run or of a model, on labelled images, with timm's evaluation transform.

    Images are decoded with Pillow on the CPU, as in timm, on every device.
    """
    from kdcache.evaluation.evaluate import EvaluateOptions
    from kdcache.evaluation.evaluate import evaluate as run

    request = EvaluateOptions(
        model=model,
        data=data,
        weights=weights,
        device=device,
        precision=precision,
        batch_size=batch_size,
        imports=tuple(imports or ()),
    )
    print_lines(run(request, ConsoleProgress()).lines())
