"""The options of a dump, and checks of them that need no open file and no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kdcache.errors import UsageError
from kdcache.runtime.option import Option
from kdcache.runtime.shared_options import (
    DEFAULT_CACHE,
    DEFAULT_DATA,
    CachePath,
    Data,
    DecodeOn,
    Device,
    Precision,
    Renderer,
    Weights,
    seed_option,
)
from kdcache.targets.kinds import DEFAULT_KIND, require_options_of


@dataclass(frozen=True)
class DumpOptions:
    """The options of `dump-logits`, in Python and on the command line; None stands for the default that its help says.

    The entry in the cache is called `name`, or else as the teacher. `targets`, `k`, `min_prob` and `dtype` say what is
    kept; `objectives` chooses it instead. Policy and seed are for a new cache, or compared with those of an old one.
    """

    teacher: Annotated[
        str,
        Option(
            "A short name (beitv2_b, beitv2_l, convnext_xl, resnet152, resnet34, ...), any timm name, or a folder: a "
            "run of `kdcache train`, RUN@epoch=N, an export, local-dir:FOLDER.",
            metavar="NAME",
        ),
    ]
    data: Data = DEFAULT_DATA
    cache: CachePath = DEFAULT_CACHE
    weights: Weights = None
    size: Annotated[
        int | None,
        Option(
            "Pixels a side of the teacher's images.",
            metavar="S",
            minimum=1,
            default_text="those it was trained at",
        ),
    ] = None
    name: Annotated[
        str | None,
        Option("Name of the teacher's entry in the cache.", metavar="NAME", default_text="as --teacher, or its folder"),
    ] = None
    views: Annotated[
        int | None,
        Option(
            "Number of views that the cache shall hold at the end; more can be added later.",
            metavar="V",
            minimum=1,
            default_text="300",
        ),
    ] = None
    targets: Annotated[
        Literal["topk", "full", "embedding"] | None,
        Option(
            "What is kept: the likely classes and the tail's mass, every class, or the features that every class can "
            "be computed from again.",
            default_text="topk",
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "float16", "uint8"] | None,
        Option(
            "full: float32, as the teacher computed it, or uint8 (a mean KL below 0.001); embedding: uint8 (below "
            "0.0005) or float16.",
            default_text="float32 for full, uint8 for embedding",
        ),
    ] = None
    objectives: Annotated[
        str | None,
        Option(
            "What shall be trained, such as kd,dkd,dist: chooses targets that serve all of them.",
            flag="--for",
            metavar="NAMES",
            default_text="none",
        ),
    ] = None
    k: Annotated[
        int | None, Option("topk: keep at most K classes of a view.", metavar="K", minimum=1, default_text="128")
    ] = None
    min_prob: Annotated[
        float | None,
        Option(
            "topk: keep classes with a probability over P; 0 gives a fixed top-K.",
            metavar="P",
            minimum=0,
            maximum=1,
            default_text="0.0033",
        ),
    ] = None
    label_space: Annotated[
        Literal["teacher", "none"],
        Option("Whether the labels are classes of the teacher's; none stores no labels with the targets."),
    ] = "teacher"
    policy: Annotated[
        str | None,
        Option(
            "How views are drawn: a name from `kdcache policies`, or a JSON or YAML file.",
            metavar="NAME_OR_FILE",
            default_text="the cache's, or a2 for a new cache",
        ),
    ] = None
    seed: Annotated[
        int | None,
        seed_option(
            "Fixes every view, with the policy and the samples' keys.", default_text="the cache's, or 0 for a new cache"
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        Option(
            "The one batch shape that the teacher runs; even.",
            metavar="B",
            minimum=2,
            default_text="128, fewer for small data",
        ),
    ] = None
    device: Device = "auto"
    precision: Annotated[
        Precision | None,
        Option("What the teacher computes in.", default_text="bf16 on a GPU, fp32 on the CPU"),
    ] = None
    renderer: Renderer = "dali"
    decode: DecodeOn = "auto"
    dry_run: Annotated[bool, Option("Write nothing; print samples, views and expected bytes.")] = False


def require_one_choice(
    objectives: str | None, *, targets: str | None, k: int | None, min_prob: float | None, dtype: str | None
) -> None:
    """Refuse target options that contradict each other; None for those that were not given.

    Raises:
        UsageError: targets, or a parameter of theirs, beside the objectives that choose them; or as
            `require_options_of` does.
    """
    if objectives is None:
        require_options_of(targets or DEFAULT_KIND, {"k": k, "min_prob": min_prob, "dtype": dtype})
        return
    chosen = {"--targets": targets, "--k": k, "--min-prob": min_prob, "--dtype": dtype}
    given = [option for option, value in chosen.items() if value is not None]
    if given:
        raise UsageError(
            f"--for chooses the targets, and so does {given[0]}: give one of them. --dry-run shows what --for chooses."
        )
