"""What a training is asked for. Nothing heavy is imported here, so that `kdcache train --help` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from kdcache.errors import UsageError
from kdcache.io.checked import declared
from kdcache.objectives.settings import BCE_SUM, BCE_TARGET_THRESH, KD_STOP_EPOCH
from kdcache.runtime.option import OUTPUT, SETTINGS, TARGETS, Option, option_of
from kdcache.runtime.shared_options import (
    CACHE,
    DEFAULT_CACHE,
    DEFAULT_DATA,
    Data,
    DecodeOn,
    Device,
    Imports,
    Renderer,
)
from kdcache.training.sections import RunSettings, ScheduleConfig, StudentConfig

Mode = Literal["cache", "live", "supervised"]

#: Of the command and of `kdcache.train`, which takes weights by name as well.
TEACHERS = Option(
    "Teachers of the cache whose weighted mean is learned, such as a=0.7,b=0.3; names without weights have "
    "equal weights.",
    metavar="A=W,B=W",
    default_text="none",
    group=TARGETS,
    names="entry",
)


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`, in Python and on the command line; None stands for the default that --help shows.

    Settings come in layers, later ones over earlier: `recipe`, `config`, then the options that name a setting
    (`epochs`, `seed`, `batch_size`, `kd_stop_epoch`, ...) and `overrides`.
    """

    student: Annotated[
        str, option_of(declared(StudentConfig, "name"), setting="student.name", metavar="NAME", names="student")
    ]
    data: Data = DEFAULT_DATA
    cache: Annotated[str | None, CACHE] = DEFAULT_CACHE
    val: Annotated[str | None, Option("Labelled shards to evaluate on.", metavar="DATA", default_text="none")] = None
    epochs: Annotated[
        int | None,
        option_of(
            declared(ScheduleConfig, "epochs"),
            setting="schedule.epochs",
            metavar="E",
            default_text="the recipe's",
            group=SETTINGS,
        ),
    ] = None
    recipe: Annotated[
        str | None,
        Option(
            "A named training configuration from `kdcache recipes`, or a YAML file of one.",
            metavar="NAME",
            default_text="a2",
            group=SETTINGS,
            names="recipe",
        ),
    ] = None
    config: Annotated[
        Path | None,
        Option(
            "YAML file of settings, which override those of the recipe.",
            metavar="FILE",
            default_text="none",
            group=SETTINGS,
        ),
    ] = None
    overrides: Annotated[
        tuple[str, ...],
        Option(
            "One setting, which overrides recipe and file; may be given several times.",
            flag="--set",
            metavar="KEY=VALUE",
            default_text="none",
            group=SETTINGS,
            names="setting",
        ),
    ] = ()
    out: Annotated[
        Path | None,
        Option(
            "Run folder: configuration, metrics, checkpoints, export.",
            metavar="DIR",
            default_text="runs/STUDENT-RECIPE-SOURCE-seedS, with -OBJECTIVE before the seed where it is not kd",
            group=OUTPUT,
        ),
    ] = None
    seed: Annotated[
        int | None,
        option_of(
            declared(RunSettings, "seed"),
            setting="seed",
            metavar="S",
            default_text="the recipe's, or 0",
            group=SETTINGS,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        option_of(
            declared(RunSettings, "batch_size"),
            setting="batch_size",
            metavar="B",
            default_text="the recipe's",
            group=SETTINGS,
        ),
    ] = None
    supervised: Annotated[
        bool, Option("Train from labels alone, on views of the recipe's policy; no cache is read.", group=TARGETS)
    ] = False
    teacher: Annotated[
        str | None,
        Option(
            "Name of the cache's teacher to learn from.",
            metavar="NAME",
            default_text="its only one",
            group=TARGETS,
            names="entry",
        ),
    ] = None
    teachers: Annotated[str | None, TEACHERS] = None
    online_teacher: Annotated[
        str | None,
        Option(
            "Teacher that runs live on the same views, in place of its cached targets; a name or a folder, as for "
            "dump-logits.",
            metavar="NAME",
            default_text="none",
            group=TARGETS,
            names="teacher",
        ),
    ] = None
    teacher_weights: Annotated[
        Path | None,
        Option(
            "Checkpoint of the live teacher, or RUN@epoch=N.",
            metavar="FILE",
            default_text="timm's pretrained weights",
            group=TARGETS,
        ),
    ] = None
    approximate: Annotated[
        bool,
        Option(
            "If the objective needs every class and the cache has only the likely ones, spread the rest evenly.",
            group=TARGETS,
        ),
    ] = False
    kd_stop_epoch: Annotated[
        int | None,
        option_of(KD_STOP_EPOCH, setting="objective.kd_stop_epoch", metavar="N", default_text="never", group=SETTINGS),
    ] = None
    bce_sum: Annotated[bool, option_of(BCE_SUM, setting="objective.bce_sum", group=SETTINGS)] = False
    bce_target_thresh: Annotated[
        float | None,
        option_of(
            BCE_TARGET_THRESH,
            setting="objective.bce_target_thresh",
            metavar="X",
            default_text="soft labels unchanged",
            group=SETTINGS,
        ),
    ] = None
    device: Device = "auto"
    renderer: Renderer = "dali"
    decode: DecodeOn = "auto"
    fresh: Annotated[bool, Option("Start anew, over what the run folder holds, instead of resuming.", group=OUTPUT)] = (
        False
    )
    log: Annotated[
        tuple[str, ...],
        Option(
            "Where the numbers go beside metrics.csv, steps.csv and TensorBoard: wandb or mlflow; may be given twice.",
            metavar="LOGGER",
            default_text="none",
            group=OUTPUT,
        ),
    ] = ()
    report: Annotated[
        bool,
        Option(
            "Write the page of `kdcache report` into the run folder at each epoch's end, as report.html.", group=OUTPUT
        ),
    ] = False
    follow: Annotated[
        bool,
        Option(
            "Begin as soon as the cache has the first views, and wait for the others while a dump elsewhere adds them; "
            "as many as --set views.count says, or as there are epochs.",
            group=TARGETS,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Option(
            "Print the resolved settings, steps, learning rate and memory, and refuse what a training would refuse; "
            "nothing is written."
        ),
    ] = False
    imports: Imports = ()

    @property
    def mode(self) -> Mode:
        """Where targets come from; "supervised" for labels alone."""
        if self.supervised and self.online_teacher:
            raise UsageError("--supervised trains without a teacher and --online-teacher with one: give one of them.")
        if self.teacher_weights is not None and not self.online_teacher:
            raise UsageError("--teacher-weights belongs to --online-teacher: a cache holds its teacher's targets.")
        if self.teacher is not None and self.supervised:
            raise UsageError("--teacher names an entry of the cache, and --supervised reads none: give one of them.")
        if self.teachers is not None and (self.supervised or self.online_teacher):
            raise UsageError("--teachers mixes targets of the cache: leave --supervised and --online-teacher out.")
        if self.follow and (self.supervised or self.online_teacher):
            raise UsageError(
                "--follow waits for targets that a dump adds to the cache: leave --supervised and --online-teacher out."
            )
        return "supervised" if self.supervised else "live" if self.online_teacher else "cache"
