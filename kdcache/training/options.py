"""What a training is asked for. Nothing heavy is imported here, so that `kdcache train --help` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from kdcache.errors import UsageError
from kdcache.runtime.option import Option
from kdcache.runtime.shared_options import (
    CACHE,
    DEFAULT_CACHE,
    DEFAULT_DATA,
    Data,
    DecodeOn,
    Device,
    Renderer,
    seed_option,
)

Mode = Literal["cache", "live", "supervised"]


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`, in Python and on the command line; None stands for the default that its help says.

    Settings come in layers, later ones over earlier: `recipe`, `config`, then the options that name a setting
    (`epochs`, `seed`, `batch_size`, `kd_stop_epoch`, ...) and `overrides`.
    """

    student: Annotated[str, Option("Any timm model name, such as resnet50.", metavar="NAME")]
    data: Data = DEFAULT_DATA
    cache: Annotated[str | None, CACHE] = DEFAULT_CACHE
    val: Annotated[str | None, Option("Labelled shards to evaluate on.", metavar="DATA", default_text="none")] = None
    epochs: Annotated[
        int | None,
        Option(
            "Passes over the data; epoch e sees view e, and where there are fewer views, they are shown again.",
            metavar="E",
            minimum=1,
            default_text="the recipe's",
        ),
    ] = None
    recipe: Annotated[
        str | None,
        Option(
            "A named training configuration from `kdcache recipes`, or a YAML file of one.",
            metavar="NAME",
            default_text="a2",
        ),
    ] = None
    config: Annotated[
        Path | None,
        Option("A YAML file of settings, over those of the recipe.", metavar="FILE", default_text="none"),
    ] = None
    overrides: Annotated[
        tuple[str, ...],
        Option(
            "One setting, over those of recipe and file; may be given many times.",
            flag="--set",
            metavar="KEY=VALUE",
            default_text="none",
        ),
    ] = ()
    out: Annotated[
        Path | None,
        Option(
            "The run folder: config, metrics, checkpoints, export.",
            metavar="DIR",
            default_text="runs/STUDENT-RECIPE-SOURCE-seedS, with -OBJECTIVE before the seed where it is not kd",
        ),
    ] = None
    seed: Annotated[
        int | None,
        seed_option(
            "Fixes the student's first weights and its dropout; views have the cache's own seed.",
            default_text="the recipe's, or 0",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        Option("Rows of a training step; even.", metavar="B", minimum=2, default_text="the recipe's"),
    ] = None
    supervised: Annotated[
        bool, Option("Train from labels alone, on views of the recipe's policy; no cache is read.")
    ] = False
    teacher: Annotated[
        str | None,
        Option("Which of the cache's teachers to learn from.", metavar="NAME", default_text="its only one"),
    ] = None
    teachers: Annotated[
        str | None,
        Option(
            "Learn from the weighted mean of these of the cache's teachers, such as a=0.7,b=0.3; names without weights "
            "count alike.",
            metavar="A=W,B=W",
            default_text="none",
        ),
    ] = None
    online_teacher: Annotated[
        str | None,
        Option(
            "Run this teacher live on the very same views, instead of reading its targets; a name or a folder, as "
            "dump-logits takes it.",
            metavar="NAME",
            default_text="none",
        ),
    ] = None
    teacher_weights: Annotated[
        Path | None,
        Option(
            "The live teacher's checkpoint, or RUN@epoch=N.",
            metavar="FILE",
            default_text="timm's pretrained weights",
        ),
    ] = None
    approximate: Annotated[
        bool,
        Option("Where the objective wants every class and the cache has the likely ones, spread the rest evenly."),
    ] = False
    kd_stop_epoch: Annotated[
        int | None,
        Option(
            "From epoch N on, counted from 0, learn from labels alone.", metavar="N", minimum=1, default_text="never"
        ),
    ] = None
    bce_sum: Annotated[bool, Option("Sum the binary cross-entropy over the classes; timm takes the mean.")] = False
    bce_target_thresh: Annotated[
        float | None,
        Option(
            "The binary cross-entropy takes soft labels over X for 1 and the others for 0.",
            metavar="X",
            minimum=0,
            maximum=1,
            default_text="as they are",
        ),
    ] = None
    device: Device = "auto"
    renderer: Renderer = "dali"
    decode: DecodeOn = "auto"
    fresh: Annotated[bool, Option("Start anew, over what the run folder holds, instead of resuming.")] = False

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
        return "supervised" if self.supervised else "live" if self.online_teacher else "cache"
