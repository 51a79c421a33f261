"""What an export is asked for. Nothing heavy is imported here, so that `kdcache export --help` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from kdcache.runtime.option import Option
from kdcache.runtime.shared_options import Imports

FormatName = Literal["timm", "torchvision", "onnx", "torchscript"]
DtypeName = Literal["float32", "float16"]

EMA = Option(
    "Take the moving average of the weights from the run's checkpoint, or with --no-ema the weights themselves.",
    flag="--ema/--no-ema",
    default_text="the average where the run has one",
)
FORMAT = Option(
    "What is written: a folder for timm, a state dict for torchvision, an ONNX graph, or a TorchScript program.",
    flag="--format",
    choices=get_args(FormatName),
)
DTYPE = Option("Number format of the weights; float16 halves them.", flag="--dtype", choices=get_args(DtypeName))
OUT = Option(
    "Folder of the export; an earlier export of the same format there is replaced.",
    flag="--out",
    metavar="FOLDER",
    default_text="exports/RUN-FORMAT",
)
PUSH = Option(
    "Also bring the export to the Hugging Face hub, to this model, which is made private where there is none.",
    flag="--push-to-hub",
    metavar="OWNER/NAME",
    default_text="no",
)


@dataclass(frozen=True)
class ExportOptions:
    """The options of `export`.

    Attributes:
        ema: True for the moving average, False for the weights themselves, None for what the run exports by itself.
        push_to_hub: OWNER/NAME of a model on the hub that the export is brought to; None for none.
    """

    run: Annotated[
        str, Option("A run folder, RUN@epoch=N, or the folder of an export.", metavar="RUN", is_argument=True)
    ]
    ema: Annotated[bool | None, EMA] = None
    format: Annotated[str, FORMAT] = "timm"
    dtype: Annotated[str, DTYPE] = "float32"
    out: Annotated[Path | None, OUT] = None
    imports: Imports = ()
    push_to_hub: Annotated[str | None, PUSH] = None
