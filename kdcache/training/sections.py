"""The sections of a run's configuration. Nothing heavy is imported here, so that options can take limits and help."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from kdcache.errors import ConfigError
from kdcache.io.checked import Setting, checked
from kdcache.io.limits import MAX_BATCH, MAX_EPOCHS, MAX_SEED, MAX_SIZE

#: The recipe of a training for which none is named.
DEFAULT_RECIPE = "a2"
#: The largest learning rate and weight decay: beyond it nothing is learnt.
MAX_RATE = 10_000


@checked
@dataclass(frozen=True)
class StudentConfig:
    """The model that is trained. Arguments as `kdcache.models.students.create_student` has them."""

    name: Annotated[str, Setting("Name of a timm model, such as resnet50.")]
    size: Annotated[
        int | None,
        Setting(
            "Pixels a side, in training and in evaluation; null: the reference size of the views.",
            least=1,
            most=MAX_SIZE,
        ),
    ] = None
    drop_path: Annotated[float, Setting("Rate of stochastic depth.", least=0, below=1)] = 0.0
    crop_pct: Annotated[
        float | None, Setting("Crop of the evaluation transform; null: timm's for the model.", above=0, most=4)
    ] = None
    interpolation: Annotated[str | None, Setting("Filter of the evaluation transform; null: timm's for the model.")] = (
        None
    )
    kwargs: Annotated[Mapping[str, Any], Setting("Further arguments of `timm.create_model`.")] = field(
        default_factory=dict
    )


@checked
@dataclass(frozen=True)
class ViewsConfig:
    """The views that the student sees; a cache's own policy and seed go before these."""

    policy: Annotated[str | Mapping[str, Any], Setting("A policy's name, or its JSON form.")] = "a2"
    seed: Annotated[
        int,
        Setting(
            "Seed of the views, apart from the run's: students with several seeds see the same views.",
            least=0,
            most=MAX_SEED,
        ),
    ] = 0
    count: Annotated[
        int | None,
        Setting(
            "Number of views; a training of more epochs shows them again. null: all that are complete in the cache, or "
            "one for each epoch.",
            least=1,
            most=MAX_EPOCHS,
        ),
    ] = None


@checked
@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser of the student; names and meanings are timm's."""

    name: Annotated[str, Setting("Name of a timm optimiser: lamb, adamw, sgd, ...")]
    lr: Annotated[float, Setting("Peak learning rate at a batch of `lr_batch_size`.", above=0, most=MAX_RATE)]
    lr_batch_size: Annotated[
        int | None, Setting("Batch size that `lr` is meant for; null: any.", least=1, most=MAX_BATCH)
    ] = None
    lr_scaling: Annotated[
        Literal["auto", "linear", "sqrt", "none"],
        Setting(
            "Rule by which the rate follows the batch. auto is timm's: by its square root for optimisers that adapt "
            "(Adam and its kin, LAMB), linearly for the others."
        ),
    ] = "auto"
    weight_decay: Annotated[
        float, Setting("Decay of matrices and kernels; biases and norms have none.", least=0, most=MAX_RATE)
    ] = 0.0
    momentum: Annotated[float, Setting("Momentum of SGD.", least=0, below=1)] = 0.9
    betas: Annotated[
        tuple[float, float] | None, Setting("Decays of Adam's averages; null: the optimiser's own.", least=0, below=1)
    ] = None
    eps: Annotated[float | None, Setting("Term of Adam's divisor; null: the optimiser's own.", above=0, most=1)] = None

    def lr_at(self, batch_size: int) -> float:
        """Return the peak learning rate for a global batch of `batch_size` images."""
        if self.lr_batch_size is None or self.lr_scaling == "none":
            return self.lr
        adapts = any(part in self.name.lower() for part in ("ada", "lamb"))
        by_root = self.lr_scaling == "sqrt" or (self.lr_scaling == "auto" and adapts)
        ratio = batch_size / self.lr_batch_size
        return self.lr * (ratio**0.5 if by_root else ratio)


#: The settings that each schedule has beside those of all, and what it takes for them to be left out.
_SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "cosine": ("cooldown_epochs",),
    "step": ("decay_epochs", "decay_rate"),
    "multistep": ("decay_milestones", "decay_rate"),
    "poly": ("decay_rate", "cooldown_epochs"),
    "plateau": ("decay_rate", "patience_epochs"),
    "constant": (),
}


def _ascending(milestones: tuple[int, ...] | None) -> str:
    rises = milestones is None or all(one < other for one, other in pairwise(milestones))
    return "" if rises and milestones != () else "give one or more epochs, each later than the one before, or null"


@checked
@dataclass(frozen=True)
class ScheduleConfig:
    """The length of the training and the course of its learning rate; names and meanings are timm's.

    The rate grows linearly from `warmup_lr` to its peak, then takes the course of `name`, as if the warm-up had been a
    part of it.
    """

    epochs: Annotated[
        int,
        Setting(
            "Passes over the data; epoch e trains on view e, and views repeat if the cache has fewer of them.",
            least=1,
            most=MAX_EPOCHS,
        ),
    ]
    name: Annotated[
        Literal["cosine", "step", "multistep", "poly", "plateau", "constant"],
        Setting(
            "Course of the rate after the warm-up: cosine and poly fall to min_lr, step and multistep are multiplied "
            "by decay_rate every decay_epochs or at decay_milestones, plateau whenever the top-1 on --val (without it "
            "the loss) has not improved for patience_epochs, constant never falls."
        ),
    ] = "cosine"
    on_updates: Annotated[
        bool, Setting("Whether the rate changes with every step, not with every epoch; plateau goes by epochs always.")
    ] = True
    decay_epochs: Annotated[
        float | None, Setting("Epochs from one decay to the next, for step.", above=0, most=MAX_EPOCHS)
    ] = None
    decay_milestones: Annotated[
        tuple[int, ...] | None,
        Setting("Numbers of epochs done at which multistep decays.", least=1, most=MAX_EPOCHS, check=_ascending),
    ] = None
    decay_rate: Annotated[
        float | None,
        Setting(
            "Factor of each decay of step, multistep and plateau; the power of poly. null: 0.1, and 1 for poly.",
            above=0,
            most=100,
        ),
    ] = None
    cooldown_epochs: Annotated[
        int,
        Setting("Last ones of the epochs, which stay at min_lr after cosine or poly.", least=0, most=MAX_EPOCHS),
    ] = 0
    patience_epochs: Annotated[
        int | None,
        Setting(
            "Evaluated epochs (without --val: epochs) without a better figure that plateau accepts; null: 10.",
            least=0,
            most=MAX_EPOCHS,
        ),
    ] = None
    warmup_epochs: Annotated[
        int, Setting("Epochs of linear growth; a shorter training is all warm-up.", least=0, most=MAX_EPOCHS)
    ] = 0
    warmup_lr: Annotated[float, Setting("Learning rate at the start of the warm-up.", least=0, most=MAX_RATE)] = 1e-6
    min_lr: Annotated[
        float, Setting("Learning rate at the end of cosine and poly, and the least of plateau.", least=0, most=MAX_RATE)
    ] = 0.0

    def __post_init__(self) -> None:
        for name in dict.fromkeys(setting for names in _SCHEDULES.values() for setting in names):
            having = [schedule for schedule, names in _SCHEDULES.items() if name in names]
            if getattr(self, name) not in (None, 0) and self.name not in having:
                raise ConfigError(
                    f"schedule.{name} is set, and the schedule {self.name} has no use for it: leave it out, or set "
                    f"schedule.name to {' or '.join(having)}."
                )
        for schedule, name in (("step", "decay_epochs"), ("multistep", "decay_milestones")):
            if self.name == schedule and getattr(self, name) is None:
                raise ConfigError(f"The schedule {schedule} needs schedule.{name}: give it.")
        if self.cooldown_epochs >= self.epochs:
            raise ConfigError(
                f"schedule.cooldown_epochs is {self.cooldown_epochs}, which leaves nothing of {self.epochs} epochs for "
                "the schedule: give fewer."
            )


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run, in the order of config.yaml. `RunConfig` has the type of `objective`."""

    student: StudentConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    batch_size: Annotated[int, Setting("Rows of a training step; even.", least=2, most=MAX_BATCH, even=True)]
    recipe: Annotated[str, Setting("Recipe that the other settings are laid over.")] = DEFAULT_RECIPE
    views: ViewsConfig = field(default_factory=ViewsConfig)
    objective: Any = None
    seed: Annotated[
        int,
        Setting(
            "Seed of the student's initial weights and dropout; views have the cache's own seed.",
            least=0,
            most=MAX_SEED,
        ),
    ] = 0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], Setting("Number format of the layers; weights are fp32.")
    ] = "auto"
    clip_grad: Annotated[
        float | None,
        Setting(
            "Largest norm of the gradient; null for no limit. LAMB has a limit of 1 of its own.", above=0, most=1e9
        ),
    ] = None
    ema_decay: Annotated[
        float | None, Setting("Decay of the moving average of the weights; null: no average.", above=0, below=1)
    ] = None
    eval_epochs: Annotated[
        int, Setting("Epochs between evaluations; 0: the last epoch only.", least=0, most=MAX_EPOCHS)
    ] = 1
    checkpoint_epochs: Annotated[
        int,
        Setting(
            "Epochs between checkpoints; one is written before every evaluation as well.", least=1, most=MAX_EPOCHS
        ),
    ] = 1
    keep_checkpoints: Annotated[
        int, Setting("Number of the latest checkpoints that stay, beside the best.", least=1, most=MAX_EPOCHS)
    ] = 2
    keep_epochs: Annotated[
        int | None,
        Setting(
            "Epochs between checkpoints that stay for good, each of which can be a teacher (RUN@epoch=N); null: none.",
            least=1,
            most=MAX_EPOCHS,
        ),
    ] = None
    export_dtype: Annotated[
        Literal["float32", "float16"],
        Setting("Number format of the exported weights; float16 halves the file, and every loader widens it again."),
    ] = "float32"
