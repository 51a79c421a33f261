"""The run folder of a training that was given none."""

from collections.abc import Sequence
from pathlib import Path

from kdcache.loader.opening import entry_name
from kdcache.objectives.vanilla import VanillaKD
from kdcache.training.config import RunConfig, chosen_objective
from kdcache.training.options import TrainOptions


def default_folder(options: TrainOptions, config: RunConfig, entries: Sequence[str]) -> Path:
    """One folder for each student, recipe, source, objective and seed, so that the same command finds its run again.

    Such as `runs/resnet18-a2-resnet50-dkd-seed0`; the usual objective, vanilla distillation, is not named, nor is one
    of which labels alone are left.

    Args:
        entries: of the cache, by name.
    """
    source = {"supervised": "alone", "live": f"live-{entry_name(options.online_teacher or '')}"}.get(options.mode)
    if source is None:
        mixed = "+".join(part.strip() for part in options.teachers.split(",")) if options.teachers else None
        source = mixed or options.teacher or (entries[0] if entries else "cache")
    parts = [entry_name(config.student.name), Path(config.recipe).stem, source]
    objective = chosen_objective(config.recipe, file=options.config, assignments=options.overrides)
    needs = config.objective.needs
    if objective != VanillaKD.name and (needs.teacher or needs.history):
        parts.append(objective)
    return Path("runs") / "-".join([*parts, f"seed{config.seed}"])
