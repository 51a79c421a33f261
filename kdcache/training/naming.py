"""The name of the run folder of a training without --out."""

from collections.abc import Sequence
from pathlib import Path

from kdcache.loader.opening import entry_name
from kdcache.objectives.vanilla import VanillaKD
from kdcache.training.config import RunConfig, chosen_objective
from kdcache.training.options import TrainOptions


def default_folder(options: TrainOptions, config: RunConfig, entries: Sequence[str]) -> Path:
    """Return the folder of a student, recipe, source, objective and seed: the same command finds its run again.

    An example is `runs/resnet18-a2-resnet50-dkd-seed0`. The usual objective, vanilla distillation, is not
    named, nor is one of which labels alone are left.

    Args:
        entries: names of the cache's entries.
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
