"""The resolved configuration of a run: every setting that decides what is trained, and nothing else."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from kdcache.errors import ConfigError, reason
from kdcache.io.limits import MAX_BATCH, MAX_EPOCHS, MAX_SEED, MAX_SIZE
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_bytes
from kdcache.io.yaml_format import dump_yaml, parse_yaml
from kdcache.objectives.distillation import LABEL_LOSS_SETTINGS
from kdcache.objectives.registry import AnyObjective, objective_named
from kdcache.objectives.vanilla import VanillaKD
from kdcache.training.files import replace_file
from kdcache.training.recipes import DEFAULT_RECIPE, read_recipe
from kdcache.training.settings import Range, check_ranges, from_plain, nested, overlay, to_plain

#: The largest learning rate and weight decay: beyond it nothing is learnt.
MAX_RATE = 10_000


@dataclass(frozen=True)
class StudentConfig:
    """The model that is trained. Arguments as `kdcache.models.students.create_student` has them.

    Attributes:
        name: a short name or a timm name.
        size: pixels a side, in training and in evaluation; None: the reference size of the views.
        drop_path: rate of stochastic depth.
        crop_pct, interpolation: settings of the evaluation transform; None: timm's own for the model.
        kwargs: further arguments of `timm.create_model`.
    """

    name: str
    size: Annotated[int | None, Range(least=1, most=MAX_SIZE)] = None
    drop_path: Annotated[float, Range(least=0, below=1)] = 0.0
    crop_pct: Annotated[float | None, Range(above=0, most=4)] = None
    interpolation: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ViewsConfig:
    """The views that the student sees; a cache's own policy and seed go before these.

    Attributes:
        policy: a policy's name, or its JSON form.
        seed: seed of the views; apart from the run's, so that students with several seeds see the same views.
        count: number of views; a training of more epochs shows them again. None: all that are complete in
            the cache, or one for each epoch.
    """

    policy: str | Mapping[str, Any] = "a2"
    seed: Annotated[int, Range(least=0, most=MAX_SEED)] = 0
    count: Annotated[int | None, Range(least=1, most=MAX_EPOCHS)] = None


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser of the student; names and meanings are timm's.

    Attributes:
        name: name of a timm optimiser: lamb, adamw, sgd, ...
        lr: peak learning rate at a batch of `lr_batch_size`.
        lr_batch_size: batch size that `lr` is meant for; None: for any.
        lr_scaling: rule by which the rate follows the batch; "auto" is timm's rule: by its square root for
            optimisers that adapt (Adam and its kin, LAMB), linearly for the others.
        weight_decay: decay of matrices and kernels; biases and norms have none.
        momentum: momentum of SGD.
        betas, eps: settings of optimisers that have them; None: the optimiser's own.
    """

    name: str
    lr: Annotated[float, Range(above=0, most=MAX_RATE)]
    lr_batch_size: Annotated[int | None, Range(least=1, most=MAX_BATCH)] = None
    lr_scaling: Literal["auto", "linear", "sqrt", "none"] = "auto"
    weight_decay: Annotated[float, Range(least=0, most=MAX_RATE)] = 0.0
    momentum: Annotated[float, Range(least=0, below=1)] = 0.9
    betas: Annotated[tuple[float, float] | None, Range(least=0, below=1)] = None
    eps: Annotated[float | None, Range(above=0, most=1)] = None

    def lr_at(self, batch_size: int) -> float:
        """Return the peak learning rate for a global batch of `batch_size` images."""
        if self.lr_batch_size is None or self.lr_scaling == "none":
            return self.lr
        adapts = any(part in self.name.lower() for part in ("ada", "lamb"))
        by_root = self.lr_scaling == "sqrt" or (self.lr_scaling == "auto" and adapts)
        ratio = batch_size / self.lr_batch_size
        return self.lr * (ratio**0.5 if by_root else ratio)


@dataclass(frozen=True)
class ScheduleConfig:
    """The length of the training and the course of its learning rate.

    The rate grows linearly from `warmup_lr` to its peak, then falls along a cosine to `min_lr`.

    Attributes:
        epochs: passes over the data, the warm-up included.
        warmup_epochs: epochs of linear growth; a training that is shorter is all warm-up.
        warmup_lr, min_lr: learning rates at the start and at the end.
    """

    epochs: Annotated[int, Range(least=1, most=MAX_EPOCHS)]
    warmup_epochs: Annotated[int, Range(least=0, most=MAX_EPOCHS)] = 0
    warmup_lr: Annotated[float, Range(least=0, most=MAX_RATE)] = 1e-6
    min_lr: Annotated[float, Range(least=0, most=MAX_RATE)] = 0.0


@dataclass(frozen=True)
class RunConfig:
    """The whole configuration of a run.

    Attributes:
        recipe: recipe that the other settings were laid over.
        batch_size: images a step over all processes; even, because pairs stay whole.
        seed: seed of the student's weights and of the training's own draws (drop path, dropout).
        precision: "auto", "fp32", "bf16" or "fp16".
        clip_grad: largest norm of the gradient; None for no limit. LAMB has a limit of 1 of its own.
        ema_decay: decay of the moving average of the weights; None for no average.
        eval_epochs: epochs between evaluations; 0 for the last only.
        checkpoint_epochs: epochs between checkpoints; one is made before every evaluation as well.
        keep_checkpoints: number of the latest checkpoints that stay, beside the best.
        keep_epochs: epochs between checkpoints that stay for good; None: no such checkpoints. Each can be a teacher
            (`kdcache.models.run_weights`).
        export_dtype: number format of the exported weights; float16 halves the file, and every loader widens it again.
    """

    student: StudentConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    batch_size: Annotated[int, Range(least=2, most=MAX_BATCH, even=True)]
    recipe: str = DEFAULT_RECIPE
    views: ViewsConfig = field(default_factory=ViewsConfig)
    objective: AnyObjective = field(default_factory=VanillaKD)
    seed: Annotated[int, Range(least=0, most=MAX_SEED)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    clip_grad: Annotated[float | None, Range(above=0, most=1e9)] = None
    ema_decay: Annotated[float | None, Range(above=0, below=1)] = None
    eval_epochs: Annotated[int, Range(least=0, most=MAX_EPOCHS)] = 1
    checkpoint_epochs: Annotated[int, Range(least=1, most=MAX_EPOCHS)] = 1
    keep_checkpoints: Annotated[int, Range(least=1, most=MAX_EPOCHS)] = 2
    keep_epochs: Annotated[int | None, Range(least=1, most=MAX_EPOCHS)] = None
    export_dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        check_ranges(self)

    def with_lr_resolved(self) -> "RunConfig":
        """Return the configuration with the learning rate of its batch size written out."""
        lr = self.optimizer.lr_at(self.batch_size)
        optimizer = dataclasses.replace(self.optimizer, lr=lr, lr_batch_size=None, lr_scaling="none")
        return dataclasses.replace(self, optimizer=optimizer)


def load_config(
    recipe: str,
    *,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """Build a configuration from a recipe and the settings laid over it, later over earlier.

    An objective of another name than the recipe's begins from the settings of that name (`OBJECTIVES`); of the
    recipe's it keeps what `inherited_settings` says.

    Args:
        recipe: name of a shipped recipe, or path of a recipe's file.
        file: YAML file with any of the settings.
        options: values by dotted name ("schedule.epochs"), as a command line's own options give them.
        assignments: "NAME=VALUE" each, with a dotted name and a YAML value.

    Raises:
        ConfigError: a file that cannot be read, an unknown setting (with the nearest), or a value out of its range.
    """
    base = read_recipe(recipe)
    given = _given(file, options, assignments)
    values = overlay(overlay(base, {"recipe": recipe}), given)
    objectives = base.get("objective", {}), given.get("objective", {})
    if all(isinstance(part, Mapping) for part in objectives):
        values["objective"] = _objective(*objectives)
    return from_plain(RunConfig, values)


def given_settings(
    *, file: Path | None = None, options: Mapping[str, Any] | None = None, assignments: Sequence[str] = ()
) -> set[str]:
    """Return the dotted names of the settings that `load_config` was given over its recipe."""
    return set(_dotted(_given(file, options, assignments)))


def _given(file: Path | None, options: Mapping[str, Any] | None, assignments: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {} if file is None else _read_yaml(file)
    for name, value in (options or {}).items():
        values = overlay(values, nested(name, value))
    for assignment in assignments:
        values = overlay(values, _assigned(assignment))
    return values


def _objective(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an objective from those of the recipe and those given over them."""
    usual = VanillaKD.name
    name = str(given.get("name", recipe.get("name", usual)))
    own = to_plain(objective_named(name))
    if name != recipe.get("name", usual):
        recipe = {key: recipe[key] for key in inherited_settings(name) if key in recipe and key in own}
    return overlay(overlay(own, recipe), given) | {"name": own["name"]}


def inherited_settings(name: str) -> tuple[str, ...]:
    """Return the settings that an objective takes from a recipe that is written for an objective of another name.

    These are the label smoothing, and the label loss only where the objective's own is the binary cross-entropy, as in
    Hao et al. 2023, who have another in some of their recipes: the other methods' weights are measured against the
    cross-entropy, of which timm's binary mean is a small part.

    Raises:
        ConfigError: an unknown name.
    """
    own = objective_named(name)
    return ("smoothing", *(LABEL_LOSS_SETTINGS if own.label_loss == "bce" else ()))


def chosen_objective(recipe: str, *, file: Path | None = None, assignments: Sequence[str] = ()) -> str:
    """Return the key of `OBJECTIVES` by which `load_config` finds its objective; arguments and errors as there."""
    usual = read_recipe(recipe).get("objective", {}).get("name", VanillaKD.name)
    return str(_given(file, None, assignments).get("objective", {}).get("name", usual))


def label_loss_origin(
    recipe: str,
    *,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> str:
    """Describe where `load_config` takes the label loss from; arguments and errors as there."""
    given = _given(file, options, assignments).get("objective", {})
    usual = read_recipe(recipe).get("objective", {})
    if "label_loss" in given:
        return "as it is set"
    meant, name = usual.get("name", VanillaKD.name), chosen_objective(recipe, file=file, assignments=assignments)
    if "label_loss" in usual and (name == meant or "label_loss" in inherited_settings(name)):
        return f"as recipe {recipe} has it"
    return f"as {name} has it, whatever the recipe's"


def _dotted(values: Mapping[str, Any], path: str = "") -> list[str]:
    names: list[str] = []
    for key, value in values.items():
        name = f"{path}.{key}" if path else str(key)
        names += _dotted(value, name) if isinstance(value, Mapping) and value else [name]
    return names


def write_config(config: RunConfig, file: Path) -> None:
    """Write every setting of `config` as YAML; `read_config` gives an equal one back."""
    replace_file(file, dump_yaml(to_plain(config)))


def read_config(file: Path) -> RunConfig:
    """Read the configuration that `write_config` wrote. Raises ConfigError where it cannot be read."""
    return from_plain(RunConfig, _read_yaml(file))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_bytes(file))
    except (OSError, FormatError) as error:
        raise ConfigError(
            f"{file} cannot be read as YAML ({reason(error)}): correct it or give another file."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no mapping of settings: write lines such as `batch_size: 256`.")
    return values


def _assigned(assignment: str) -> dict[str, Any]:
    name, equals, text = assignment.partition("=")
    if not (name.strip() and equals):
        raise ConfigError(f"{assignment!r} sets nothing: write NAME=VALUE, such as optimizer.lr=0.001.")
    try:
        value = parse_yaml(text)
    except FormatError as error:
        raise ConfigError(
            f"The value of {name.strip()} cannot be read as YAML, {text!r:.60}: {error}. Correct it, or quote it."
        ) from error
    return nested(name.strip(), value)
