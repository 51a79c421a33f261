"""Options that several commands share, so that each has one name, one meaning and one default."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Precision = Literal["fp32", "bf16", "fp16"]
RendererName = Literal["dali", "pillow"]
Decode = Literal["auto", "cpu", "gpu"]

MAX_SEED = 2**32 - 1  # half of a 64-bit Philox key

DEFAULT_DATA = "./data"
DEFAULT_CACHE = "./cache"

DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        envvar="KDCACHE_DATA",
        metavar="DATA",
        help="Webdataset shards: a folder of tars, or a brace pattern such as 'train-{000000..000146}.tar'; or a URL "
        "of either, such as s3://bucket/train.",
    ),
]

CacheOption = Annotated[
    str,
    typer.Option("--cache", envvar="KDCACHE_CACHE", metavar="PATH", help="The Zarr store of the teachers' answers."),
]

CacheArgument = Annotated[
    str,
    typer.Argument(envvar="KDCACHE_CACHE", metavar="CACHE", help="The Zarr store of the teachers' answers."),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON, for programs.")]

DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda",
        help="Where models run; auto is the GPU if there is one, else the CPU; cuda:1 is the second GPU.",
    ),
]

RendererOption = Annotated[
    RendererName,
    typer.Option("--renderer", help="What decodes, crops, resizes and flips; Pillow is the slow reference."),
]

DecodeOption = Annotated[
    Decode,
    typer.Option(
        "--decode",
        help="Where images are decoded, cropped and resized; auto is the GPU where DALI renders for one, else the CPU.",
    ),
]

WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="A timm or kdcache checkpoint: safetensors, a state dict without code in it, a run folder, or "
        "RUN@epoch=N, which is that run's checkpoint of epoch N.",
        show_default="timm's pretrained weights",
    ),
]
