"""`kdcache export`."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache.exporting.options import DTYPE, EMA, FORMAT, OUT, DtypeName, FormatName
from kdcache_cli.console import ConsoleProgress, print_json, print_lines
from kdcache_cli.declared import typer_option
from kdcache_cli.options import ImportsOption, JsonOption


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, RUN@epoch=N, or the folder of an export.")],
    ema: Annotated[bool | None, typer_option("ema", EMA, is_flag=True)] = None,
    format: Annotated[FormatName, typer_option("format", FORMAT)] = "timm",
    dtype: Annotated[DtypeName, typer_option("dtype", DTYPE)] = "float32",
    out: Annotated[Path | None, typer_option("out", OUT)] = None,
    imports: ImportsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the model of a run for timm, torchvision, ONNX or TorchScript, with a model card.

    The written files are run on images of noise and compared with the model before they take their place.
    """
    from kdcache import jobs

    report = jobs.export(
        run, ema=ema, format=format, dtype=dtype, out=out, imports=tuple(imports or ()), progress=ConsoleProgress()
    )
    if as_json:
        print_json(report.to_json())
    else:
        print_lines(report.lines())
