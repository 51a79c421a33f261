"""The summary that a training logs before its first step."""

from kdcache.objectives.base import Objective
from kdcache.objectives.distillation import LABEL_LOSS_SETTINGS, format_setting
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress
from kdcache.targets.base import Capabilities
from kdcache.training.settings import to_plain
from kdcache.training.setup import Setup

# The label loss has a line of its own, and the effect of `approximate` is described with the targets.
_DESCRIBED_ELSEWHERE = {"name", "label_weight", "approximate", *LABEL_LOSS_SETTINGS}


def log_summary(setup: Setup, processes: Distributed, progress: Progress) -> None:
    """Log the student, the source of its targets, the schedule and the objective, and what of these is unusual."""
    config = setup.config
    epochs = config.schedule.epochs
    progress.say(
        f"{config.student.name} at {config.student.size} pixels, {setup.num_classes:,} classes, learns from "
        f"{setup.source} on views of policy {setup.policy_text}."
    )
    several = "" if processes.is_single else f"on {processes.world_size} processes, "
    progress.say(
        f"Recipe {config.recipe}: {format_count(epochs, 'epoch')} of {format_count(setup.steps_per_epoch, 'step')} of "
        f"{config.batch_size} images, {config.optimizer.name} with a peak rate of {config.optimizer.lr:.3g}, "
        f"{config.precision}; {several}into {setup.folder}."
    )
    progress.say(describe_objective(setup.objective_name, config.objective, setup.targets))
    if setup.label_loss is not None:
        progress.say(setup.label_loss)
    stop = config.objective.kd_stop_epoch
    if stop is not None and stop >= epochs:
        progress.say(
            f"objective.kd_stop_epoch is {stop}, counted from 0, and there {'is' if epochs == 1 else 'are'} "
            f"{format_count(epochs, 'epoch')}: distillation goes on to the end."
        )
    warmup = config.schedule.warmup_epochs
    if 3 * warmup > epochs:
        grows = f"{warmup} of the {epochs} epochs" if warmup < epochs else "the whole training"
        progress.say(
            f"The learning rate grows for {grows}, as {config.recipe} is meant for longer trainings: --set "
            "schedule.warmup_epochs=N shortens that."
        )


def describe_objective(name: str, objective: Objective, targets: Capabilities | None) -> str:
    """Describe the objective, its settings that are not 0 and have effect, and how well the targets serve it.

    The terms are those of docs/objectives.md.

    Args:
        name: name that it was chosen by.
        objective: objective of the training.
        targets: what the teacher's targets can give; None without a teacher.
    """
    needs = objective.needs
    if not (needs.teacher or needs.history):
        return "Objective: labels alone, without a teacher."
    values = to_plain(objective)
    settings = ", ".join(
        f"{setting} {format_setting(value)}"
        for setting, value in values.items()
        if value and setting not in _DESCRIBED_ELSEWHERE and setting not in objective.idle
    )
    served = "from labels and the student's own past" if needs.history else _served(objective, targets)
    return f"Objective {name}: {settings + '; ' if settings else ''}{served}."


def _served(objective: Objective, targets: Capabilities | None) -> str:
    assert targets is not None  # `require` has refused an objective whose teacher is not there
    if targets.every_class:
        return f"exact from {targets.description}"
    if objective.approximate and objective.with_approximate(False).needs.full:
        far = objective.far_from_topk
        return f"approximate from {targets.description}, whose tail is spread evenly{far and f': {far}'}"
    return f"close from {targets.description}"
