"""The options of `evaluate`; nothing heavy is imported here, so that `kdcache evaluate --help` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from kdcache.runtime.option import COMPARISON, COMPUTING, OUTPUT, Option
from kdcache.runtime.shared_options import Device, Imports, Precision, Weights, seed_option

#: Equal bins of the confidence, as Guo et al. 2017 have them.
DEFAULT_BINS = 15
#: Images at a time.
DEFAULT_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How models are evaluated, whichever they are.

    Attributes:
        weights: weights of the one model that is named, as `model_source` takes them.
        size: pixels a side at which the model is tested; None for the size that it was trained at.
        crop_pct: share of the resized image that is kept; None for the model's own.
        real_labels: file of several right labels for each image (`kdcache.evaluation.real_labels`).
        reference, reference_weights: model that the others are compared with: a teacher, or another run.
    """

    weights: Weights = None
    size: Annotated[
        int | None,
        Option("Pixels per side at which models are tested.", metavar="S", minimum=1, default_text="as trained"),
    ] = None
    crop_pct: Annotated[
        float | None,
        Option("Share of the resized image that is kept, as in timm.", metavar="SHARE", default_text="the model's own"),
    ] = None
    bins: Annotated[
        int,
        Option("Bins of the confidence, for ECE and reliability.", metavar="B", minimum=1, group=OUTPUT),
    ] = DEFAULT_BINS
    real_labels: Annotated[
        Path | None,
        Option(
            "JSON of several right labels for each image: ImageNet-ReaL's real.json, or lists by key.",
            metavar="FILE",
            default_text="none",
            group=COMPARISON,
        ),
    ] = None
    reference: Annotated[
        str | None,
        Option(
            "A teacher or another run: agreement, KL and difference in accuracy are measured to it.",
            metavar="MODEL",
            default_text="none",
            group=COMPARISON,
            names="teacher",
        ),
    ] = None
    reference_weights: Annotated[
        Path | None,
        Option(
            "Weights of the reference, as --weights takes them.",
            metavar="FILE",
            default_text="its own",
            group=COMPARISON,
        ),
    ] = None
    seed: Annotated[int, seed_option("Seed of the bootstrap interval.", group=OUTPUT)] = 0
    device: Device = "auto"
    precision: Annotated[
        str,
        Option("Number format in which the model computes.", choices=get_args(Precision), group=COMPUTING),
    ] = "fp32"
    batch_size: Annotated[int, Option("Images per batch.", metavar="B", minimum=1, group=COMPUTING)] = DEFAULT_BATCH
    imports: Imports = ()


@dataclass(frozen=True)
class EvaluateOptions(EvaluateSettings):
    """The options of an evaluation of one model on one data set: labelled shards."""

    model: str
    data: str


@dataclass(frozen=True)
class TableOptions(EvaluateSettings):
    """The options of `evaluate`: several models, each on several data sets.

    The data have no default, unlike those of other jobs: $KDCACHE_DATA and ./data are what models are trained on.
    """

    models: Annotated[
        tuple[str, ...],
        Option(
            "Run folders, RUN@epoch=N, exports, or timm model names.",
            metavar="MODEL",
            is_argument=True,
            names="student",
        ),
    ]
    data: Annotated[
        tuple[str, ...],
        Option(
            "Labelled shards: a folder of tars, a brace pattern, or a URL. May be given several times.",
            metavar="DATA",
        ),
    ]
