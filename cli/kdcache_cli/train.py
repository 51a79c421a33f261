"""`kdcache train`."""

from pathlib import Path
from typing import Annotated

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
    RendererOption,
)


def train(
    student: Annotated[str, typer.Option("--student", metavar="NAME", help="Any timm model name, such as resnet50.")],
    data: DataOption = DEFAULT_DATA,
    cache: CacheOption = DEFAULT_CACHE,
    val: Annotated[
        str | None,
        typer.Option("--val", metavar="DATA", help="Labelled shards to evaluate on.", show_default="none"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            min=1,
            metavar="E",
            help="Passes over the data; epoch e sees view e, and where there are fewer views, they are shown again.",
            show_default="the recipe's",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="A named training configuration from `kdcache recipes`, or a YAML file of one.",
            show_default="a2",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="A YAML file of settings, over those of the recipe.",
            show_default="none",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, over those of recipe and file; may be given many times.",
            show_default="none",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The run folder: config, metrics, checkpoints, export.",
            show_default="runs/STUDENT-RECIPE-SOURCE-seedS, with -OBJECTIVE before the seed where it is not kd",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            metavar="S",
            help="Fixes the student's first weights and its dropout; views have the cache's own seed.",
            show_default="the recipe's, or 0",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=2,
            metavar="B",
            help="Rows of a training step; even.",
            show_default="the recipe's",
        ),
    ] = None,
    supervised: Annotated[
        bool,
        typer.Option(
            "--supervised", help="Train from labels alone, on views of the recipe's policy; no cache is read."
        ),
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="NAME",
            help="Which of the cache's teachers to learn from.",
            show_default="its only one",
        ),
    ] = None,
    teachers: Annotated[
        str | None,
        typer.Option(
            "--teachers",
            metavar="A=W,B=W",
            help="Learn from the weighted mean of these of the cache's teachers, such as a=0.7,b=0.3; names without "
            "weights count alike.",
            show_default="none",
        ),
    ] = None,
    online_teacher: Annotated[
        str | None,
        typer.Option(
            "--online-teacher",
            metavar="NAME",
            help="Run this teacher live on the very same views, instead of reading its answers; a name or a folder, as "
            "dump-logits takes it.",
            show_default="none",
        ),
    ] = None,
    teacher_weights: Annotated[
        Path | None,
        typer.Option(
            "--teacher-weights",
            metavar="FILE",
            help="The live teacher's checkpoint, or RUN@epoch=N.",
            show_default="timm's pretrained weights",
        ),
    ] = None,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate",
            help="Where the objective wants every class and the cache has the likely ones, spread the rest evenly.",
        ),
    ] = False,
    kd_stop_epoch: Annotated[
        int | None,
        typer.Option(
            "--kd-stop-epoch",
            min=1,
            metavar="N",
            help="From epoch N on, counted from 0, learn from labels alone.",
            show_default="never",
        ),
    ] = None,
    bce_sum: Annotated[
        bool, typer.Option("--bce-sum", help="Sum the binary cross-entropy over the classes; timm takes the mean.")
    ] = False,
    bce_target_thresh: Annotated[
        float | None,
        typer.Option(
            "--bce-target-thresh",
            min=0,
            max=1,
            metavar="X",
            help="The binary cross-entropy takes soft labels over X for 1 and the others for 0.",
            show_default="as they are",
        ),
    ] = None,
    device: DeviceOption = "auto",
    renderer: RendererOption = "dali",
    decode: DecodeOption = "auto",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, over what the run folder holds, instead of resuming.")
    ] = False,
) -> None:
    """Train a student from a cache, from labels alone, or with the teacher live.

    Stopped at any time and run again, it resumes at the step where its last checkpoint was made. SIGINT (Ctrl-C),
    SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 make one after the step that is being taken.
    """
    from kdcache.runtime.ranks import Ranks
    from kdcache.training.options import TrainOptions
    from kdcache.training.train import train as run

    request = TrainOptions(
        student=student,
        data=data,
        cache=cache,
        val=val,
        epochs=epochs,
        recipe=recipe,
        config=config,
        overrides=tuple(overrides or ()),
        out=out,
        seed=seed,
        batch_size=batch_size,
        supervised=supervised,
        teacher=teacher,
        teachers=teachers,
        online_teacher=online_teacher,
        teacher_weights=teacher_weights,
        approximate=approximate,
        kd_stop_epoch=kd_stop_epoch,
        bce_sum=bce_sum,
        bce_target_thresh=bce_target_thresh,
        device=device,
        renderer=renderer,
        decode=decode,
        fresh=fresh,
    )
    report = run(request, ConsoleProgress())
    if Ranks.from_environment().is_main:
        print_lines(report.lines())
