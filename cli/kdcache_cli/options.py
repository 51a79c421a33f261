"""Options of commands whose parameters are written out, from the declarations that all jobs share."""

from pathlib import Path
from typing import Annotated

import typer

from kdcache.io.limits import MAX_SEED as MAX_SEED
from kdcache.runtime import shared_options
from kdcache.runtime.shared_options import DEFAULT_CACHE as DEFAULT_CACHE
from kdcache.runtime.shared_options import DEFAULT_DATA as DEFAULT_DATA
from kdcache.runtime.shared_options import Decode as Decode
from kdcache.runtime.shared_options import Precision as Precision
from kdcache.runtime.shared_options import RendererName as RendererName
from kdcache_cli.declared import typer_option

DataOption = Annotated[str, typer_option("data", shared_options.DATA)]
CacheOption = Annotated[str, typer_option("cache", shared_options.CACHE)]
CacheArgument = Annotated[str, typer.Argument(envvar="KDCACHE_CACHE", metavar="CACHE", help=shared_options.CACHE.help)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
DeviceOption = Annotated[str, typer_option("device", shared_options.DEVICE)]
RendererOption = Annotated[RendererName, typer_option("renderer", shared_options.RENDERER)]
DecodeOption = Annotated[Decode, typer_option("decode", shared_options.DECODE)]
ImportsOption = Annotated[list[str] | None, typer_option("imports", shared_options.IMPORT)]
WeightsOption = Annotated[Path | None, typer_option("weights", shared_options.WEIGHTS)]
