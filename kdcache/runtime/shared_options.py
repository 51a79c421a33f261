"""Options that several jobs share; each is declared once, with its name, default and help."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from kdcache.io.limits import MAX_SEED
from kdcache.runtime.option import COMPUTING, MODEL, Option

RendererName = Literal["dali", "pillow"]
Decode = Literal["auto", "cpu", "gpu", "hardware"]
Precision = Literal["fp32", "bf16", "fp16"]

DEFAULT_DATA = "./data"
DEFAULT_CACHE = "./cache"

DATA = Option(
    "Webdataset shards: a folder of tars, or a brace pattern such as 'train-{000000..000146}.tar'; or a URL of "
    "either, such as s3://bucket/train.",
    flag="--data",
    metavar="DATA",
    envvar="KDCACHE_DATA",
)
Data = Annotated[str, DATA]
CACHE = Option(
    "Path or URL of the cache, a Zarr store of the teachers' targets.",
    flag="--cache",
    metavar="PATH",
    envvar="KDCACHE_CACHE",
)
CachePath = Annotated[str, CACHE]
CACHE_ARGUMENT = replace(CACHE, metavar="CACHE", is_argument=True)
CacheArgument = Annotated[str, CACHE_ARGUMENT]
DEVICE = Option(
    "Device of the models; auto is the GPU if there is one, else the CPU; cuda:1 is the second GPU.",
    flag="--device",
    metavar="auto|cpu|cuda",
    group=COMPUTING,
)
Device = Annotated[str, DEVICE]
RENDERER = Option(
    "Library that decodes, crops, resizes and flips; pillow is the slow reference.",
    flag="--renderer",
    choices=get_args(RendererName),
    group=COMPUTING,
)
Renderer = Annotated[str, RENDERER]
DECODE = Option(
    "Device that decodes, crops and resizes; auto is the GPU if DALI renders for one, else the CPU. With hardware, "
    "the decoder of JPEGs that some GPUs have beside their cores.",
    flag="--decode",
    choices=get_args(Decode),
    group=COMPUTING,
)
DecodeOn = Annotated[str, DECODE]
WEIGHTS = Option(
    "A timm or kdcache checkpoint: safetensors, a state dict without code in it, a run folder, or RUN@epoch=N, "
    "which is that run's checkpoint of epoch N.",
    flag="--weights",
    metavar="FILE",
    default_text="timm's pretrained weights",
    group=MODEL,
)
Weights = Annotated[Path | None, WEIGHTS]
IMPORT = Option(
    "A module, or a .py file, that is imported first: it can register models with timm. Its code is run, so name only "
    "what you trust. May be given several times.",
    flag="--import",
    metavar="MODULE",
    default_text="none",
    group=MODEL,
)
Imports = Annotated[tuple[str, ...], IMPORT]


def seed_option(help: str, default_text: str | None = None, group: str | None = None) -> Option:
    """Return the option --seed, whose help names what the seed determines."""
    return Option(help, flag="--seed", metavar="S", minimum=0, maximum=MAX_SEED, default_text=default_text, group=group)
