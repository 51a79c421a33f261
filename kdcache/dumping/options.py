"""The options of a dump, and checks of them that need no open file and no torch."""

from dataclasses import dataclass
from typing import Annotated, get_args

from kdcache.errors import UsageError
from kdcache.io.limits import MAX_BATCH, MAX_CLASSES, MAX_SIZE, MAX_VIEWS
from kdcache.io.plain_values import shown
from kdcache.runtime.option import COMPUTING, MODEL, TARGETS, VIEWS, Option
from kdcache.runtime.shared_options import (
    DEFAULT_CACHE,
    DEFAULT_DATA,
    CachePath,
    Data,
    DecodeOn,
    Device,
    Imports,
    Precision,
    Renderer,
    Weights,
    seed_option,
)
from kdcache.targets.kinds import DEFAULT_KIND, KINDS, require_options_of


@dataclass(frozen=True)
class DumpOptions:
    """The options of `dump-logits`, in Python and on the command line; None stands for the default that --help shows.

    The entry in the cache is called `name`, by default as the teacher. `targets`, `k`, `min_prob` and `dtype` choose
    the targets, or else `objectives` does. Policy and seed apply to a new cache; an existing cache must have the same.
    """

    teacher: Annotated[
        str,
        Option(
            "A short name (beitv2_b, beitv2_l, convnext_xl, resnet152, resnet34, ...), any timm name, or a folder: a "
            "run of `kdcache train`, RUN@epoch=N, an export, local-dir:FOLDER.",
            metavar="NAME",
            names="teacher",
        ),
    ]
    data: Data = DEFAULT_DATA
    cache: CachePath = DEFAULT_CACHE
    weights: Weights = None
    size: Annotated[
        int | None,
        Option(
            "Pixels per side of the teacher's input.",
            metavar="S",
            minimum=1,
            default_text="as it was trained",
            group=MODEL,
        ),
    ] = None
    name: Annotated[
        str | None,
        Option(
            "Name of the teacher's entry in the cache.",
            metavar="NAME",
            default_text="as --teacher, or its folder",
            group=MODEL,
        ),
    ] = None
    views: Annotated[
        int | None,
        Option(
            "Number of views that the cache holds at the end; more can be added later.",
            metavar="V",
            minimum=1,
            default_text="300",
            group=VIEWS,
        ),
    ] = None
    targets: Annotated[
        str | None,
        Option(
            "Kind of targets: the likely classes and the mass of the others, every class, or "
            "the features from which every class is computed.",
            choices=tuple(KINDS),
            default_text=DEFAULT_KIND,
            group=TARGETS,
        ),
    ] = None
    dtype: Annotated[
        str | None,
        Option(
            "full: float32 (exact) or uint8 (adds a mean KL below 0.001 nats); "
            "embedding: uint8 (below 0.0005 nats) or float16.",
            choices=("float32", "float16", "uint8"),
            default_text="float32 for full, uint8 for embedding",
            group=TARGETS,
        ),
    ] = None
    objectives: Annotated[
        str | None,
        Option(
            "Objectives to be trained, such as kd,dkd,dist: chooses targets that serve all of them.",
            flag="--for",
            metavar="NAMES",
            default_text="none",
            group=TARGETS,
            names="objective",
        ),
    ] = None
    k: Annotated[
        int | None,
        Option("topk: keep at most K classes per view.", metavar="K", minimum=1, default_text="128", group=TARGETS),
    ] = None
    min_prob: Annotated[
        float | None,
        Option(
            "topk: keep classes with a probability above P; 0 gives a fixed top-K.",
            metavar="P",
            minimum=0,
            maximum=1,
            default_text="0.0033",
            group=TARGETS,
        ),
    ] = None
    label_space: Annotated[
        str,
        Option(
            "Whether the labels are classes of the teacher; with none, targets are stored without labels.",
            choices=("teacher", "none"),
            group=TARGETS,
        ),
    ] = "teacher"
    policy: Annotated[
        str | None,
        Option(
            "Policy of the views: a name from `kdcache policies`, or a JSON or YAML file.",
            metavar="NAME_OR_FILE",
            default_text="the cache's, or a2 for a new cache",
            group=VIEWS,
            names="policy",
        ),
    ] = None
    seed: Annotated[
        int | None,
        seed_option(
            "Seed of the views; with the policy and the samples' keys it determines every view.",
            default_text="the cache's, or 0 for a new cache",
            group=VIEWS,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        Option(
            "Rows of the teacher's batches, which all have this size; even.",
            metavar="B",
            minimum=2,
            default_text="128, fewer for small data",
            group=COMPUTING,
        ),
    ] = None
    device: Device = "auto"
    precision: Annotated[
        str | None,
        Option(
            "Number format in which the teacher computes.",
            choices=get_args(Precision),
            default_text="bf16 on a GPU, fp32 on the CPU",
            group=COMPUTING,
        ),
    ] = None
    compile: Annotated[
        str | None,
        Option(
            "Backend of torch.compile for the teacher, such as inductor. Targets can differ in the last bits, so it is "
            "noted with each block, as the device is.",
            metavar="BACKEND",
            default_text="none",
        ),
    ] = None
    renderer: Renderer = "dali"
    decode: DecodeOn = "auto"
    dry_run: Annotated[bool, Option("Write nothing; print samples, views, and the expected bytes and time.")] = False
    imports: Imports = ()


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


def require_sane(options: DumpOptions) -> None:
    """Raise UsageError for a number that is too large for any dump."""
    for option, value, most in (
        ("--views", options.views, MAX_VIEWS),
        ("--batch-size", options.batch_size, MAX_BATCH),
        ("--size", options.size, MAX_SIZE),
        ("--k", options.k, MAX_CLASSES),
    ):
        if value is not None and value > most:
            raise UsageError(f"{option} is {shown(value)}: give at most {most:,}.")
