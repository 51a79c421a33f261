"""The arms of the comparison: who teaches, by which objective, with which seed; and how one is trained and scored."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costs.results import Result
from costs.settings import Material
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.runtime.progress import Progress
from kdcache.targets.kinds import KINDS
from kdcache.training.options import TrainOptions
from kdcache.training.train import train

#: What is dumped for each kind of targets: the options of `dump-logits` beside its defaults.
KEPT: Mapping[str, Mapping[str, Any]] = {
    "full": {"targets": "full"},
    "topk": {},
    "top-3": {"k": 3, "min_prob": 0.0},
    "embedding": {"targets": "embedding"},
}
#: Sources of targets, in the order of the tables.
SOURCES = ("alone", "live", *KEPT)
#: Settings of each objective over the recipe's. DIST's relation of columns is far off from what a top-k keeps, so that
#: its rows are compared by themselves, too.
OBJECTIVES: Mapping[str, Sequence[str]] = {
    "kd": (),
    "dkd": ("objective.name=dkd",),
    "dist": ("objective.name=dist",),
    "dist-rows": ("objective.name=dist", "objective.gamma=0"),
}
_APPROXIMATE = ("dkd", "dist", "dist-rows")
_BY_OBJECTIVE: Mapping[str, Sequence[str]] = {
    "kd": SOURCES,
    "dkd": ("live", *KEPT),
    "dist": ("live", *KEPT),
    "dist-rows": ("live", "topk", "top-3"),
}
#: What is compared, in the order of running.
PARTS = (
    ("fashion-mnist", "kd"),
    ("fonts", "kd"),
    ("fashion-mnist", "dkd"),
    ("fashion-mnist", "dist"),
    ("fashion-mnist", "dist-rows"),
)


@dataclass(frozen=True)
class Arm:
    """One training; its text is the name that `--only` selects by."""

    setting: str
    objective: str
    source: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}/{self.objective}/{self.source}/{self.seed}"

    @property
    def is_possible(self) -> bool:
        """Whether this version of kdcache has what the arm needs."""
        return KEPT.get(self.source, {}).get("targets", "full") in KINDS


def all_arms(seeds: Sequence[int]) -> Iterator[Arm]:
    """Every arm, in the order of running: seed by seed within a part, so that each seed is soon complete."""
    for setting, objective in PARTS:
        for seed in seeds:
            for source in _BY_OBJECTIVE[objective]:
                yield Arm(setting, objective, source, seed)


def run(arm: Arm, material: Material, folder: Path, epochs: int, progress: Progress) -> Result:
    """Train the arm's student and score its export; what an earlier call left is gone on with.

    Args:
        folder: of this setting and these epochs; the arms of one seed share a cache in it.
    """
    start = time.monotonic()
    cache = folder / f"seed-{arm.seed}.zarr"
    kept = arm.source if arm.source in KEPT else "full"  # the live teacher takes views and batches from there
    loss = bytes_per_view = None
    if arm.source != "alone":
        dump(
            DumpOptions(
                teacher=material.teacher,
                data=material.train,
                cache=str(cache),
                weights=material.weights,
                name=kept,
                views=epochs,
                policy=material.policy,
                seed=arm.seed,
                device="cpu",
                **KEPT[kept],
            ),
            progress,
        )
    if arm.source in KEPT:
        looked_at = inspect(InspectOptions(str(cache), samples=1)).teachers
        [entry] = [teacher for teacher in looked_at if teacher.identity["name"] == kept]
        loss, bytes_per_view = entry.kl, sum(entry.array_bytes.values()) / entry.stored_targets
    report = train(
        request(arm, material, cache, kept, epochs, folder / f"{arm.objective}-{arm.source}-{arm.seed}"), progress
    )
    score = evaluate(EvaluateOptions(str(report.folder), material.test, device="cpu"), progress)
    return Result(
        str(arm), epochs, score.top1, score.loss, score.samples, bytes_per_view, loss, time.monotonic() - start
    )


def request(arm: Arm, material: Material, cache: Path, kept: str, epochs: int, out: Path) -> TrainOptions:
    """The training of an arm."""
    overrides = list(OBJECTIVES[arm.objective])
    if arm.source == "alone":
        overrides += [f"views.policy={material.policy_value}", f"views.seed={arm.seed}"]
    if arm.source in ("topk", "top-3") and arm.objective in _APPROXIMATE:
        overrides.append("objective.approximate=true")
    live = arm.source == "live"
    return TrainOptions(
        student=material.student,
        data=material.train,
        cache=None if arm.source == "alone" else str(cache),
        epochs=epochs,
        recipe=material.recipe,
        overrides=tuple(overrides),
        out=out,
        seed=arm.seed,
        supervised=arm.source == "alone",
        teacher=None if arm.source == "alone" else kept,
        online_teacher=material.teacher if live else None,
        teacher_weights=material.weights if live else None,
        device="cpu",
    )
