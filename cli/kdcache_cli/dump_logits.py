"""`kdcache dump-logits`."""

from typing import Annotated, Literal

import typer

from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.options import (
    DEFAULT_CACHE,
    DEFAULT_DATA,
    MAX_SEED,
    CacheOption,
    DataOption,
    DecodeOption,
    DeviceOption,
    Precision,
    RendererOption,
    WeightsOption,
)


def dump_logits(
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            metavar="NAME",
            help="A short name (beitv2_b, beitv2_l, convnext_xl, resnet152, resnet34, ...), any timm name, or a "
            "folder: a run of `kdcache train`, RUN@epoch=N, an export, local-dir:FOLDER.",
        ),
    ],
    data: DataOption = DEFAULT_DATA,
    cache: CacheOption = DEFAULT_CACHE,
    weights: WeightsOption = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=1,
            metavar="S",
            help="Pixels a side that the teacher sees.",
            show_default="those it was trained at",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What the cache calls this teacher.",
            show_default="as --teacher, or its folder",
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            min=1,
            metavar="V",
            help="How many views the cache shall hold at the end; more can be added later.",
            show_default="300",
        ),
    ] = None,
    targets: Annotated[
        Literal["topk", "full", "embedding"] | None,
        typer.Option(
            "--targets",
            help="What is kept: the likely classes and the tail's mass, every class, or the features that every class "
            "can be computed from again.",
            show_default="topk",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "uint8"] | None,
        typer.Option(
            "--dtype",
            help="full: float32, as the teacher said it, or uint8 (a mean KL below 0.001); embedding: uint8 (below "
            "0.0005) or float16.",
            show_default="float32 for full, uint8 for embedding",
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="NAMES",
            help="What shall be trained, such as kd,dkd,dist: chooses targets that serve all of them.",
            show_default="none",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", min=1, metavar="K", help="topk: keep at most K classes of a view.", show_default="128"),
    ] = None,
    min_prob: Annotated[
        float | None,
        typer.Option(
            "--min-prob",
            min=0,
            max=1,
            metavar="P",
            help="topk: keep classes with a probability over P; 0 gives a fixed top-K.",
            show_default="0.0033",
        ),
    ] = None,
    label_space: Annotated[
        Literal["teacher", "none"],
        typer.Option(
            "--label-space",
            help="Whether the labels are classes of the teacher's; none stores no labels with the answers.",
        ),
    ] = "teacher",
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="NAME_OR_FILE",
            help="How views are drawn: a name from `kdcache policies`, or a JSON or YAML file.",
            show_default="the cache's, or a2 for a new cache",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            metavar="S",
            help="Fixes every view, with the policy and the samples' keys.",
            show_default="the cache's, or 0 for a new cache",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=2,
            metavar="B",
            help="The one batch shape that the teacher runs; even.",
            show_default="128, fewer for small data",
        ),
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="What the teacher computes in.",
            show_default="bf16 on a GPU, fp32 on the CPU",
        ),
    ] = None,
    renderer: RendererOption = "dali",
    decode: DecodeOption = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; print samples, views and expected bytes.")
    ] = False,
) -> None:
    """Run a teacher once over every view of the data and keep its answers in a cache.

    Stopped at any time and run again, it goes on where it was, and the cache ends with the same bytes. Processes that
    are started on one cache, by torchrun or each by itself, share the work.
    """
    from kdcache.dumping.options import require_one_choice

    require_one_choice(objectives, targets=targets, k=k, min_prob=min_prob, dtype=dtype)  # before torch is imported

    from kdcache.dumping.dump import DumpOptions, dump
    from kdcache.runtime.ranks import Ranks

    request = DumpOptions(
        teacher=teacher,
        data=data,
        cache=cache,
        weights=weights,
        size=size,
        name=name,
        views=views,
        k=k,
        min_prob=min_prob,
        targets=targets,
        dtype=dtype,
        objectives=objectives,
        label_space=label_space,
        policy=policy,
        seed=seed,
        batch_size=batch_size,
        device=device,
        precision=precision,
        renderer=renderer,
        decode=decode,
        dry_run=dry_run,
    )
    report = dump(request, ConsoleProgress())
    if Ranks.from_environment().is_main:
        print_lines(report.lines())
