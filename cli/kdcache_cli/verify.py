"""`kdcache verify`."""

from typing import Annotated, Any

import typer

from kdcache.errors import UsageError
from kdcache_cli.console import ConsoleProgress, print_json, print_lines
from kdcache_cli.options import (
    MAX_SEED,
    CacheArgument,
    DecodeOption,
    DeviceOption,
    ImportsOption,
    JsonOption,
    RendererOption,
    WeightsOption,
)

NOT_WHOLE = 3
#: The cache could not be read, because of the disk, the network or the credentials; so it is not known to be damaged.
NOT_READ = 1


def verify(
    cache: CacheArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="With --teacher: shards from which views are rendered again.",
            show_default="none",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="NAME",
            help="With --data: teacher whose targets are computed again and compared: an entry of the cache (with "
            "--weights if its weights are not timm's), or the --teacher that was given to dump-logits.",
            show_default="none",
        ),
    ] = None,
    weights: WeightsOption = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            min=1,
            metavar="N",
            help="With --teacher: number of targets that are computed again, spread over all views and blocks.",
        ),
    ] = 1024,
    max_kl: Annotated[
        float,
        typer.Option(
            "--max-kl",
            min=0.0,
            metavar="KL",
            help="With --teacher: nats of KL that targets may lose in the mean, beyond their "
            "encoding; one target, 100 times that.",
        ),
    ] = 0.01,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, max=MAX_SEED, metavar="S", help="With --teacher: seed of the choice of targets."),
    ] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop bad blocks, so that the next dump-logits computes them again.")
    ] = False,
    device: DeviceOption = "auto",
    renderer: RendererOption = "dali",
    decode: DecodeOption = "auto",
    imports: ImportsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the whole cache, and compare all bytes with the checksums of what was written.

    With --data and --teacher, run the teacher again on random views and compare its outputs with the cached targets.
    Exits with 3 if something is damaged, and with 1 if the cache only could not be read.
    """
    from kdcache import jobs

    if (data is None) != (teacher is None):
        raise UsageError("--data and --teacher are needed together to compute targets again: give both, or none.")
    if teacher is None and weights is not None:
        raise UsageError(f"--weights {weights} belongs to --teacher and --data: give these too.")
    if teacher is None and imports:
        raise UsageError(f"--import {imports[0]} belongs to --teacher and --data: give these too, or leave it out.")
    rerun: dict[str, Any] = {}
    if teacher is not None:
        rerun = {
            "weights": weights,
            "samples": samples,
            "max_kl": max_kl,
            "seed": seed,
            "device": device,
            "renderer": renderer,
            "decode": decode,
            "imports": tuple(imports or ()),
        }
    report = jobs.verify(cache, data=data, teacher=teacher, repair=repair, progress=ConsoleProgress(), **rerun)
    if as_json:
        print_json(report.to_json())
    else:
        print_lines(report.lines())
    if not report.whole:
        raise typer.Exit(NOT_WHOLE if report.damaged else NOT_READ)
