"""The resolved configuration of a run: every setting that decides what is trained, and nothing else."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from kdcache.errors import ConfigError, reason
from kdcache.io.checked import Setting, checked, read
from kdcache.io.plain_values import FormatError, shown
from kdcache.io.reading import read_bytes
from kdcache.io.yaml_format import dump_yaml, parse_yaml
from kdcache.objectives.distillation import LABEL_LOSS_SETTINGS
from kdcache.objectives.registry import AnyObjective, objective_named
from kdcache.objectives.vanilla import VanillaKD
from kdcache.training.files import replace_file
from kdcache.training.recipes import baseline_settings, recipe_settings
from kdcache.training.sections import RunSettings
from kdcache.training.settings import nested, overlay, split_assignment, to_plain


@checked
@dataclass(frozen=True)
class RunConfig(RunSettings):
    """The whole configuration of a run: `RunSettings`, with the objective's own settings in their place."""

    objective: Annotated[AnyObjective, Setting("The loss, by name, and its settings.")] = field(
        default_factory=VanillaKD
    )

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
    recipe's it keeps what `inherited_settings` says. Over that goes what the recipe has for that name (its section
    `objectives`), where its paper measured that objective too.

    Args:
        recipe: name of a shipped recipe, or path of a recipe's file.
        file: YAML file with any of the settings.
        options: values by dotted name ("schedule.epochs"), as a command line's own options give them.
        assignments: "NAME=VALUE" each, with a dotted name and a YAML value.

    Raises:
        ConfigError: a file that cannot be read, an unknown setting (with the nearest), or a value out of its range.
    """
    base = recipe_settings(recipe)
    overrides = _overrides(file, options, assignments)
    values = overlay(overlay(base, {"recipe": recipe}), overrides)
    objectives = base.get("objective", {}), overrides.get("objective", {})
    if all(isinstance(part, Mapping) for part in objectives):
        values["objective"] = _objective(*objectives, recipe)
    return read(RunConfig, values)


def chosen_settings(
    *, file: Path | None = None, options: Mapping[str, Any] | None = None, assignments: Sequence[str] = ()
) -> set[str]:
    """Return the dotted names of the settings that `load_config` was given over its recipe."""
    return set(_dotted(_overrides(file, options, assignments)))


def _overrides(file: Path | None, options: Mapping[str, Any] | None, assignments: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {} if file is None else _read_yaml(file)
    for name, value in (options or {}).items():
        values = overlay(values, nested(name, value))
    for assignment in assignments:
        values = overlay(values, _assigned(assignment))
    return values


def _objective(recipe: Mapping[str, Any], given: Mapping[str, Any], recipe_name: str) -> dict[str, Any]:
    """Return the settings of an objective from those of the recipe and those given over them."""
    usual = VanillaKD.name
    name = str(given.get("name", recipe.get("name", usual)))
    own = to_plain(objective_named(name))
    if name != recipe.get("name", usual):
        inherited = {key: recipe[key] for key in inherited_settings(name) if key in recipe and key in own}
        recipe = inherited | baseline_settings(recipe_name, name)
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
    usual = recipe_settings(recipe).get("objective", {}).get("name", VanillaKD.name)
    return str(_overrides(file, None, assignments).get("objective", {}).get("name", usual))


def label_loss_origin(
    recipe: str,
    *,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> str:
    """Describe where `load_config` takes the label loss from; arguments and errors as there."""
    overrides = _overrides(file, options, assignments).get("objective", {})
    usual = recipe_settings(recipe).get("objective", {})
    if "label_loss" in overrides:
        return "as it is set"
    meant, name = usual.get("name", VanillaKD.name), chosen_objective(recipe, file=file, assignments=assignments)
    if name != meant and "label_loss" in baseline_settings(recipe, name):
        return f"as recipe {recipe} has it for {name}"
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
    """Read the configuration that `write_config` wrote. Raises ConfigError, with the file, where it cannot be read."""
    values = _read_yaml(file)
    try:
        return read(RunConfig, values)
    except ConfigError as error:
        raise ConfigError(f"In {file}: {error}") from error


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
    name, text = split_assignment(assignment)
    try:
        value = parse_yaml(text)
    except FormatError as error:
        raise ConfigError(
            f"The value of {name} cannot be read as YAML, {shown(text)}: {error}. Correct it, or quote it."
        ) from error
    return nested(name, value)
