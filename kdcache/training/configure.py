"""The configuration of a training that follows from its options before any data is opened."""

import dataclasses
from typing import Any

import torch

from kdcache.errors import ConfigError, UsageError
from kdcache.models.compiled import require_backend
from kdcache.objectives.distillation import format_setting
from kdcache.runtime.device import resolve_precision
from kdcache.runtime.option import options_by_field
from kdcache.training.config import (
    RunConfig,
    chosen_objective,
    chosen_settings,
    label_loss_origin,
    load_config,
)
from kdcache.training.options import Mode, TrainOptions
from kdcache.training.recipes import DEFAULT_RECIPE, baseline_settings


def configure(options: TrainOptions, mode: Mode, device: torch.device) -> tuple[RunConfig, set[str]]:
    """Return the settings without what the views decide, and the names of those that the user gave."""
    settings = _settings_of(options)
    _refuse_options_without_meaning(options, settings)
    config = load_config(
        options.recipe or DEFAULT_RECIPE, file=options.config, options=settings, assignments=options.overrides
    )
    if options.approximate:
        # An objective that cannot approximate stays as it is: `require` refuses it once the cache's targets are known.
        config = dataclasses.replace(config, objective=config.objective.with_approximate(True))
    chosen = chosen_settings(file=options.config, options=settings, assignments=options.overrides)
    twice = sorted(settings.keys() & chosen_settings(assignments=options.overrides))
    if twice:
        raise UsageError(f"{twice[0]} is given twice, by an option of its own and by --set: leave one of them out.")
    if "optimizer.lr" in chosen and "optimizer.lr_batch_size" not in chosen:
        # A recipe's rate follows the batch size; a rate that somebody chose is the one that is meant.
        config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr_batch_size=None))
    binary = sorted({"objective.bce_sum", "objective.bce_target_thresh"} & settings.keys())
    if binary and config.objective.label_loss != "bce":
        raise UsageError(
            f"{_option(binary[0])} belongs to the binary cross-entropy, and this "
            "objective's label loss is another: add --set objective.label_loss=bce, or leave it out."
        )
    if mode != "supervised" and config.objective.needs.history:
        raise UsageError(f"{config.objective.name} learns without a teacher: add --supervised.")
    if mode == "supervised":
        distilling = sorted({"objective.kd_weight", "objective.kd_stop_epoch", "objective.name"} & chosen)
        if distilling and config.objective.needs.teacher:
            raise ConfigError(
                f"{distilling[0]} is set, and --supervised has no teacher to distil from: leave one of them out."
            )
        config = dataclasses.replace(config, objective=config.objective.without_teacher())
    if config.compile_teacher is not None:
        if mode != "live":
            raise ConfigError(
                "compile_teacher is set, and no teacher runs in this training: leave it out, or give --online-teacher."
            )
        require_backend(config.compile_teacher, "compile_teacher")
    precision = resolve_precision(config.precision, device)
    config = dataclasses.replace(config.with_lr_resolved(), precision=precision)
    return config, chosen


def _settings_of(options: TrainOptions) -> dict[str, Any]:
    """Return the settings that options of their own were given for; a switch that is off stands for none."""
    named = {field: option.setting for field, option in options_by_field(TrainOptions).items()}
    values = {setting: getattr(options, field) for field, setting in named.items() if setting is not None}
    return {setting: value for setting, value in values.items() if value is not None and value is not False}


def _refuse_options_without_meaning(options: TrainOptions, settings: dict[str, Any]) -> None:
    """Refuse an option whose setting the objective does not have, in the option's name."""
    own = [name for name in settings if name.startswith("objective.")]
    if not own:
        return
    others = {name: value for name, value in settings.items() if name not in own}
    objective = load_config(
        options.recipe or DEFAULT_RECIPE, file=options.config, options=others, assignments=options.overrides
    ).objective
    for name in own:
        if name.removeprefix("objective.") not in objective.setting_names:
            raise UsageError(f"{_option(name)} has no meaning for {objective.name}: leave it out.")


def _option(name: str) -> str:
    """Return the option of a setting of the objective: "--kd-stop-epoch"."""
    return f"--{name.removeprefix('objective.').replace('_', '-')}"


def describe_label_loss(options: TrainOptions, config: RunConfig) -> str | None:
    """Return which label loss a configuration has, and why, as a line; None where the objective does not choose one.

    Where the recipe has settings for an objective of another name than its own, the line tells these, too.
    """
    if config.objective.label_loss_text is None:
        return None
    origin = label_loss_origin(config.recipe, file=options.config, assignments=options.overrides)
    needs = config.objective.needs
    alone = "" if needs.teacher or needs.history else "; without a teacher its weight is 1"
    line = f"The label loss is {config.objective.label_loss_text}, {origin}{alone}."
    chosen = chosen_objective(config.recipe, file=options.config, assignments=options.overrides)
    names = chosen_settings(file=options.config, assignments=options.overrides)
    listed = ", ".join(
        f"{name} {format_setting(value)}"
        for name, value in baseline_settings(config.recipe, chosen).items()
        if f"objective.{name}" not in names
    )
    if not listed or not needs.teacher:
        return line
    return f"{line} Under this recipe {chosen} has the settings of the paper's own baseline: {listed}."
