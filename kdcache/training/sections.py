"""The sections of a run's configuration. Nothing heavy is imported here, so that options can take limits and help."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from kdcache.io.checked import Setting, checked
from kdcache.io.limits import MAX_BATCH, MAX_EPOCHS, MAX_SEED, MAX_SIZE

#: The recipe of a training for which none is named.
DEFAULT_RECIPE = "a2"
#: The largest learning rate and weight decay: beyond it nothing is learnt.
MAX_RATE = 10_000
#: More steps than any training has.
MAX_LOG_STEPS = 1_000_000_000


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
    drop: Annotated[float, Setting("Rate of dropout before the classifier, timm's drop_rate.", least=0, below=1)] = 0.0
    in_chans: Annotated[
        int,
        Setting(
            "Channels of the images that it takes: 3 (RGB), or 1 (luminance of the RGB images, augmented and mixed).",
            check=lambda channels: "" if channels in (1, 3) else "give 3 for RGB or 1 for grey images",
        ),
    ] = 3
    weights: Annotated[
        str | None,
        Setting(
            "Weights that training begins from: a file, a run, RUN@epoch=N, an export, or a pretrained model of timm's "
            "or of the hub by its name. The classifier is drawn anew where it has another number of classes. null: "
            "drawn under the seed."
        ),
    ] = None
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

    name: Annotated[
        str,
        Setting(
            "Name of a timm optimiser: lamb, adamw, ... timm's sgd has Nesterov's momentum, momentum the classic one."
        ),
    ]
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
    weight_decay: Annotated[float, Setting("Decay of the weights, see filter_bias_and_bn.", least=0, most=MAX_RATE)] = (
        0.0
    )
    filter_bias_and_bn: Annotated[
        bool,
        Setting(
            "Whether biases and norms, and what else has one dimension, have no weight decay; false: all parameters "
            "have it, as with PyTorch's own optimisers."
        ),
    ] = True
    layer_decay: Annotated[
        float | None,
        Setting(
            "Factor of the learning rate from each layer to the one before it, from the head down; null: none.",
            above=0,
            most=1,
        ),
    ] = None
    momentum: Annotated[float, Setting("Momentum of SGD.", least=0, below=1)] = 0.9
    betas: Annotated[
        tuple[float, float] | None, Setting("Decays of Adam's averages; null: the optimiser's own.", least=0, below=1)
    ] = None
    eps: Annotated[float | None, Setting("Term of Adam's divisor; null: the optimiser's own.", above=0, most=1)] = None
    kwargs: Annotated[
        Mapping[str, Any],
        Setting("Further arguments of the optimiser, such as {fused: true} or {foreach: true} where it takes them."),
    ] = field(default_factory=dict)

    def rules(self) -> Iterator[str]:
        """Yield a sentence for each further argument that is none."""
        for name in sorted(self.kwargs):
            if name in ("lr", "weight_decay", "momentum", "betas", "eps", "filter_bias_and_bn", "layer_decay"):
                yield f"optimizer.kwargs has {name}, which is a setting of its own: give optimizer.{name}."
            if name in ("opt", "model_or_params", "param_group_fn"):
                yield f"optimizer.kwargs has {name}, which is no argument of an optimiser: leave it out."

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

    def rules(self) -> Iterator[str]:
        """Yield a sentence for each setting that the schedule has no use for, or lacks."""
        for name in dict.fromkeys(setting for names in _SCHEDULES.values() for setting in names):
            having = [schedule for schedule, names in _SCHEDULES.items() if name in names]
            if getattr(self, name) not in (None, 0) and self.name not in having:
                yield (
                    f"schedule.{name} is set, and the schedule {self.name} has no use for it: leave it out, or set "
                    f"schedule.name to {' or '.join(having)}."
                )
        for schedule, name in (("step", "decay_epochs"), ("multistep", "decay_milestones")):
            if self.name == schedule and getattr(self, name) is None:
                yield f"The schedule {schedule} needs schedule.{name}: give it."
        if self.cooldown_epochs >= self.epochs:
            yield (
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
    accumulation: Annotated[
        int,
        Setting(
            "Number of equal parts, of whole pairs, in which a batch goes through the student, for less memory. Views, "
            "losses and gradients are those of the whole batch, but for batch normalisation, which sees a part.",
            least=1,
            most=MAX_BATCH,
        ),
    ] = 1
    grad_checkpointing: Annotated[
        bool, Setting("Whether layers are computed again for their gradients in place of being kept in memory.")
    ] = False
    clip_grad: Annotated[
        float | None,
        Setting(
            "Limit of the gradient, as clip_mode measures it; null for none. LAMB has a norm of 1 of its own.",
            above=0,
            most=1e9,
        ),
    ] = None
    clip_mode: Annotated[
        Literal["norm", "value", "agc"],
        Setting(
            "What clip_grad limits: the norm of the whole gradient, each of its numbers, or the norm of each unit as a "
            "share of that of its weights (adaptive gradient clipping; the classifier is left out)."
        ),
    ] = "norm"
    ema_decay: Annotated[
        float | None, Setting("Decay of the moving average of the weights; null: no average.", above=0, below=1)
    ] = None
    ema_warmup: Annotated[
        bool, Setting("Whether the decay grows with the steps to ema_decay: 1 - (1 + step / gamma)^-power.")
    ] = False
    ema_warmup_gamma: Annotated[
        float, Setting("Number of steps that the warm-up of ema_decay is measured in.", above=0, most=1e9)
    ] = 1.0
    ema_warmup_power: Annotated[
        float, Setting("Power of the warm-up of ema_decay; 3/4 for short trainings.", above=0, most=10)
    ] = 2 / 3
    mixup_off_epoch: Annotated[
        int,
        Setting(
            "First epoch, counted from 0, in which images are not mixed any more; 0: as the policy of the views has "
            "it. With a cache its views must end mixing there (`mixup_off_view` of the policy).",
            least=0,
            most=MAX_EPOCHS,
        ),
    ] = 0
    sync_bn: Annotated[
        bool, Setting("Whether batch normalisation takes its statistics over the GPUs of all processes.")
    ] = False
    dist_bn: Annotated[
        Literal["broadcast", "reduce"],
        Setting(
            "Running statistics of batch normalisation at the end of an epoch of several processes: the main one's, or "
            "the mean of all."
        ),
    ] = "broadcast"
    compile: Annotated[
        str | None, Setting("Backend of torch.compile for the student in training, such as inductor; null: none.")
    ] = None
    compile_teacher: Annotated[
        str | None, Setting("Backend of torch.compile for a live teacher; null: none. A cached one does not run.")
    ] = None
    tf32: Annotated[
        bool | None,
        Setting("Whether a GPU rounds the factors of fp32 products to TF32; null: as PyTorch has it, in convolutions."),
    ] = None
    cudnn_benchmark: Annotated[
        bool, Setting("Whether cuDNN tries which convolution is fastest; two runs then differ in rounding.")
    ] = False
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
    log_steps: Annotated[int, Setting("Steps between two rows of steps.csv; 0: none.", least=0, most=MAX_LOG_STEPS)] = (
        50
    )
    export_dtype: Annotated[
        Literal["float32", "float16"],
        Setting("Number format of the exported weights; float16 halves the file, and every loader widens it again."),
    ] = "float32"

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[str]:
        """Yield a sentence for each setting that goes for nothing without another."""
        if values.get("clip_mode", "norm") != "norm" and values.get("clip_grad") is None:
            yield f"clip_mode is {values['clip_mode']} and there is no limit: give clip_grad, for agc such as 0.01."
        if values.get("ema_warmup") and values.get("ema_decay") is None:
            yield "ema_warmup is set and there is no average: give ema_decay."
