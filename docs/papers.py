"""Write docs/papers.md from the headers of the recipes: python docs/papers.py.

A test compares the page with what this writes.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from kdcache.training.config import RunConfig, load_config
from kdcache.training.recipes import Row, list_recipes, recipe_header

PAGE = Path(__file__).with_name("papers.md")
WIDTH = 138

#: Multiplications and additions of one image through a model, in units of 1e9, by timm's and kdcache's networks and
#: `torch.utils.flop_counter`, at the size of their tables: 224 pixels a side, or 32.
GMACS = {
    "beitv2_b": 17.56, "beitv2_l": 61.55, "convnext_xl": 60.92, "resnet152": 11.51, "resnet34": 3.664,
    "resnet50_tv": 4.089, "resnet50": 4.089, "resnet18": 1.814, "deit_s": 4.599, "vit_s": 4.599, "vit_t": 1.254,
    "convnextv2_t": 4.456, "mobilenetv2": 0.3008, "mobilenetv1": 0.5687, "resnet20": 0.04082, "resnet32": 0.06913,
    "resnet56": 0.1258, "resnet110": 0.2532, "resnet8x4": 0.1771, "resnet32x4": 1.083, "wrn_16_1": 0.02666,
    "wrn_16_2": 0.1011, "wrn_16_3": 0.223, "wrn_16_4": 0.3926, "wrn_16_8": 1.548, "wrn_28_1": 0.05497,
    "wrn_28_3": 0.4778, "wrn_40_1": 0.08329, "wrn_40_2": 0.3276, "cifar_vgg8": 0.09619, "cifar_vgg13": 0.2849,
    "cifar_shufflenetv1": 0.03869, "cifar_shufflenetv2": 0.0445, "cifar_mobilenetv2_050": 0.006524,
}  # fmt: skip
#: Assumed, not measured: operations a second that a GPU really does, and images a second that it never exceeds.
FLOPS, MOST_IMAGES = 50e12, 10_000
IMAGENET, CIFAR = 1_281_167, 50_000
#: Most views that a cache of the page holds; longer trainings see them again.
MOST_VIEWS = {224: 600, 32: 240}

PAPERS = {
    "VanillaKD": "Hao et al. 2023, *Revisit the Power of Vanilla Knowledge Distillation: from Small Scale to Large "
    "Scale* (arXiv:2305.15781)",
    "IPWD": "Niu et al. 2022, *Respecting Transfer Gap in Knowledge Distillation* (arXiv:2210.12787)",
    "ESKD": "Cho and Hariharan 2019, *On the Efficacy of Knowledge Distillation* (arXiv:1910.01348)",
    "PS-KD": "Kim et al. 2021, *Self-Knowledge Distillation with Progressive Refinement of Targets* (arXiv:2006.12000)",
}
#: Rows of the papers that no recipe can be for, with what kdcache lacks; errors of the paper are written as accuracies.
NOT_YET = {
    "VanillaKD": (
        "**Detection and segmentation (Table 11).** kdcache trains classifiers; examples/detection_backbone.py puts a "
        "student under a detector in small.",
        "**The students' scores on ImageNet-ReaL and ImageNet-V2** need those sets: `kdcache evaluate RUN --data v2 "
        "--real-labels real.json`; the paper's figures are not at hand.",
        "**DeiT-S, the 30 % and 60 % subsets and ImageNet-22k** have recipes, and their figures are not at hand. The "
        "commands of the first stage on ImageNet-22k are in the header of recipe in22k-in1k-1.",
        "**The previous recipe's column of MobileNetV2.** Its figures for DKD (72.05) and DIST (73.24) are those that "
        "the papers of the two methods publish for MobileNetV1.",
    ),
    "IPWD": (
        "**The paper's tables.** Pairs and schedules are at hand, figures are not.",
        "**Variants of the appendix:** IPWD* (class-aware output of a separate network), IPWD-dagger (distilled output "
        "of a head of its own), ReviewKD with IPWD's weights, KD with logit adjustment, and IPWD as self-distillation.",
        "**ImageNet with MobileNetV2 of width 0.5** stands beside MobileNetV1; the row is the one with MobileNetV1.",
    ),
    "ESKD": (
        "**The paper's tables and figures.** Early-stopped teachers, teachers of several sizes and distillation that "
        "stops early can be run; figures are not at hand.",
        "**Sequences of distillation** are trained by hand, one run as the teacher of the next.",
        "**ImageNet:** early-stopped teachers of ImageNet have no recipe: take previous-90 with `--set "
        "schedule.epochs=N` and `--set schedule.decay_epochs=K`.",
    ),
    "PS-KD": (
        "**CIFAR-100** (recipe pskd-cifar): the paper's networks are not in kdcache, nor in timm at 32 pixels. "
        "Top-1 by PS-KD: PreAct ResNet-18 79.18 (alone 75.82), PreAct ResNet-101 80.57 (79.25), DenseNet-121 81.27 "
        "(79.95), ResNeXt-29 82.72 (81.35), PyramidNet-200 84.51 (83.20).",
        "**CS-KD and TF-KD**, which the paper compares with, are no objectives of kdcache.",
        "**Detection and translation.** kdcache trains classifiers of images.",
    ),
}

INTRO = """
# The papers' tables

Each row of the tables of four papers that a recipe of kdcache is for: teacher and student, commands, the paper's
figure, and an estimate of the GPU hours. The page is written by docs/papers.py from the headers of the recipes
(`kdcache recipes show NAME`), which tell what is as in the paper, what is assumed and what differs. **None of these
rows has been measured with kdcache.** A figure that is "not at hand" was not in the copy of the paper that the
recipes were written from.

Folders: `imagenet` and `cifar100` or `cifar10` hold the shards for training, and the same name with `-val` those
for evaluation. A dump serves all students below it, and a cache several teachers. Where a method reads feature
maps, the teacher runs live.

## Hours

For E epochs of N images (ImageNet-1k 1,281,167, CIFAR 50,000) and V stored views:

```text
t(model)          = 2 * MACs / 50e12 seconds an image forward, three times that for training,
                    and at least 1 / 10,000 s for either
live teacher      = E * N * (t_forward(teacher) + t_training(student)) / 3600
first student     = (V * N * t_forward(teacher) + E * N * t_training(student)) / 3600, the cache being made
each further one  = E * N * t_training(student) / 3600, the cache being there
```

50 TFLOP/s and 10,000 images/s are assumptions about one GPU, not measurements: compare rows with each other, and
use `kdcache dump-logits --dry-run` for your machine. Teachers for CIFAR are trained first; that time is not
counted.
""".strip()


@dataclass(frozen=True)
class Planned:
    """A row with the recipe that it is trained by, its configuration and the options of its training."""

    row: Row
    recipe: str
    config: RunConfig
    options: tuple[str, ...]

    @property
    def size(self) -> int:
        """Pixels a side of the student's images, by which the data set is known."""
        return self.config.student.size or 224

    @property
    def data(self) -> str:
        """Folder of the shards for training."""
        if "--data" in self.options:
            return self.options[self.options.index("--data") + 1]
        return "imagenet" if self.size > 32 else "cifar10" if self.row.paper == "ESKD" else "cifar100"

    @property
    def cache(self) -> str:
        """Folder of the cache: one for each data set and policy."""
        return f"caches/{self.data}-{self.config.views.policy}"

    @property
    def views(self) -> int:
        """Number of stored views."""
        return min(self.config.schedule.epochs, MOST_VIEWS[self.size])

    @property
    def is_live(self) -> bool:
        """Whether the objective needs what no cache holds."""
        return self.config.objective.needs.maps

    @property
    def entry(self) -> str:
        """Name of the teacher in the cache."""
        return self.row.teacher.replace("@", "-")


@cache
def _own_objective(recipe: str) -> str:
    return load_config(recipe).objective.name


@cache
def planned() -> tuple[Planned, ...]:
    """Return all rows of all recipes, with their configurations. Reading these takes most of the script's time."""
    found = []
    for recipe in list_recipes():
        for row in recipe_header(recipe.name).rows:
            options = shlex.split(row.options)
            name = recipe.name
            if "--recipe" in options:
                at = options.index("--recipe")
                name = options[at + 1]
                del options[at : at + 2]
            if row.objective.removesuffix("-cifar") != _own_objective(name):
                options = ["--set", f"objective.name={row.objective}", *options]
            found.append(Planned(row, name, _config(name, row.student, options), tuple(options)))
    return tuple(found)


def _config(recipe: str, student: str, options: list[str]) -> RunConfig:
    pairs = list(zip(options[::2], options[1::2], strict=True))
    given: dict[str, object] = {"student.name": student}
    if epochs := [int(value) for name, value in pairs if name == "--epochs"]:
        given["schedule.epochs"] = epochs[-1]
    return load_config(recipe, options=given, assignments=[value for name, value in pairs if name == "--set"])


def hours(plan: Planned) -> tuple[float | None, float | None, float]:
    """Return the estimated hours with a live teacher, with a cache made for the row, and with one that is there."""
    images = {"data-30": 0.3, "data-60": 0.6}.get(plan.data, 1) * (IMAGENET if plan.size > 32 else CIFAR)
    epochs = plan.config.schedule.epochs

    def seconds(model: str, passes: int) -> float:
        return max(passes * 2e9 * GMACS[model] / FLOPS, 1 / MOST_IMAGES)

    further = epochs * images * seconds(plan.row.student, 3) / 3600
    if plan.row.teacher == "-":
        return None, None, further
    teacher = images * seconds(plan.row.teacher.partition("@")[0], 1) / 3600
    return further + epochs * teacher, None if plan.is_live else further + plan.views * teacher, further


def commands(plans: list[Planned], every: tuple[Planned, ...]) -> Iterator[str]:
    """Yield the commands of rows: teachers and dumps once, then what trains and evaluates each student.

    Args:
        plans: rows of a table.
        every: rows of the page: a teacher has one entry in a cache, so that its dump serves all that learn from it.
    """
    said: set[str] = set()
    for plan in plans:
        for line in _teacher(plan, every):
            if line not in said:
                said.add(line)
                yield line
    for plan in plans:
        row = plan.row
        yield f"# {row.teacher} -> {row.student}, {row.objective}: {_figure(row)}"
        yield from _student(plan)


def _of_cifar(plan: Planned) -> bool:
    return plan.size <= 32 and plan.row.teacher != "-"


def _teacher(plan: Planned, every: tuple[Planned, ...]) -> Iterator[str]:
    if plan.row.teacher == "-":
        return
    if plan.data in ("data-30", "data-60"):
        share = int(plan.data.removeprefix("data-")) / 100
        yield f"kdcache index imagenet --fraction {share:g} --stratified --out {plan.data}"
    if _of_cifar(plan):
        model, _, recipe = plan.row.teacher.partition("@")
        recipe = recipe or ("eskd-cifar" if plan.row.paper == "ESKD" else "previous-cifar")
        yield (
            f"kdcache train --supervised --data {plan.data} --student {model} --recipe {recipe} --out runs/{plan.entry}"
        )
    if not plan.is_live:
        served = [one for one in every if (one.cache, one.entry, one.is_live) == (plan.cache, plan.entry, False)]
        # At T = 4, as on CIFAR, the names with the settings for CIFAR choose the targets.
        names = dict.fromkeys(name for one in served for name in _serving(one))
        yield (
            f"kdcache dump-logits --data {plan.data} --cache {plan.cache} --teacher {_named(plan)} --policy "
            f"{plan.config.views.policy} --views {max(one.views for one in served)} --for {','.join(names)}"
        )


def _named(plan: Planned) -> str:
    return f"runs/{plan.entry}" if _of_cifar(plan) else plan.row.teacher


def _serving(plan: Planned) -> tuple[str, ...]:
    """Return the names of the objectives that the targets are chosen for."""
    if plan.size > 32 or plan.row.objective.endswith("-cifar"):
        return (plan.row.objective,)
    return (f"{plan.row.objective}-cifar",)


def _student(plan: Planned) -> Iterator[str]:
    row = plan.row
    parts = [row.teacher, row.student, plan.recipe, row.objective]
    values = [word for word in plan.options[1::2] if "objective.name" not in word]
    parts += [re.sub("[=/]", "-", word.rpartition(".")[2]) for word in values]
    out = "runs/" + "-".join(part.replace("@", "-") for part in parts if part not in ("-", plan.data))
    source = f"--cache {plan.cache} --teacher {plan.entry}"
    if row.teacher == "-":
        source = "--supervised"
    elif plan.is_live:
        source = f"--online-teacher {_named(plan)}"
    data = () if "--data" in plan.options else ("--data", plan.data)
    told = shlex.join([*data, *plan.options])
    yield f"kdcache train --student {row.student} --recipe {plan.recipe} {source} {told} --out {out}"
    val = "imagenet" if plan.data.startswith("data-") else plan.data
    yield f"kdcache evaluate {out} --data {val}-val"


def _figure(row: Row) -> str:
    return "not at hand" if row.expected == "?" else row.expected


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def page() -> str:
    """Return the whole page."""
    lines = [INTRO, ""]
    rows = planned()
    for paper, title in PAPERS.items():
        lines += [f"## {paper}", "", *textwrap.wrap(f"{title}.", WIDTH), ""]
        own = sorted((plan for plan in rows if plan.row.paper == paper), key=lambda plan: plan.row.table)
        for table, plans in groupby(own, key=lambda plan: plan.row.table):
            lines += [f"### {paper}: {table}", "", *_table(list(plans), rows)]
        lines += ["What kdcache cannot do yet, and what is not at hand:", ""]
        for text in NOT_YET[paper]:
            lines += textwrap.wrap(f"* {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _table(plans: list[Planned], every: tuple[Planned, ...]) -> Iterator[str]:
    yield (
        "| teacher | student | objective | recipe, options | epochs | top-1 | hours: live teacher | first student | "
        "each further |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for plan in plans:
        row = plan.row
        pairs = zip(plan.options[::2], plan.options[1::2], strict=True)
        further = (f"{option} {value}" for option, value in pairs if value != f"objective.name={row.objective}")
        told = " ".join([plan.recipe, *further])
        cells = [row.teacher, row.student, row.objective, told]
        cells += [f"{plan.config.schedule.epochs:,}", _figure(row), *map(_hours, hours(plan))]
        yield f"| {' | '.join(cells)} |"
    yield from ["", "```sh", *commands(plans, every), "```", ""]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
