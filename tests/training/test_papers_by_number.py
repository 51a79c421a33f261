"""Rows of the papers' tables, typed from the papers and their codes' readmes, against recipes, policies and the page.

Nothing here is derived from the recipes: each number was typed from its source, which stands beside it.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from kdcache.models.names import architecture
from kdcache.training.config import load_config
from kdcache.training.recipes import recipe_header
from kdcache.views.policies import NAMED

#: VanillaKD, the commands in the readme of its code: A1 and A2 with timm 0.6.5 on 8 GPUs of 256 images each.
LAMB = {
    "batch_size": 2048,
    "optimizer.name": "lamb",
    "optimizer.lr": 5e-3,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 5,
    "schedule.warmup_lr": 1e-6,
    "student.size": 224,
    "student.drop": 0.0,
    "student.drop_path": 0.05,
    "student.crop_pct": 0.95,
    "ema_decay": None,
    "objective.temperature": 1.0,
    "objective.kd_weight": 1.0,
    "objective.label_weight": 1.0,
    "objective.label_loss": "bce",
}
#: The same, the images: `--aa rand-m7-mstd0.5 --cutmix 1.0 --aug-repeats 3 --color-jitter 0`, flips of one half, crops
#: of 8 % to all of the area.
MIXED = {
    "auto_augment": "rand-m7-mstd0.5",
    "cutmix": 1.0,
    "repeats": 3,
    "color_jitter": (0.0, 0.0, 0.0, 0.0),
    "hflip": 0.5,
    "crop_scale": (0.08, 1.0),
}
#: `--weight-decay 0.01 --smoothing 0.1 --mixup 0.2`; Table 5 has 0.03 for A2 and 80.89.
A1 = LAMB | {"optimizer.weight_decay": 0.01, "objective.smoothing": 0.1}
A2 = LAMB | {"optimizer.weight_decay": 0.03, "objective.smoothing": 0.0, "schedule.epochs": 300}
#: VanillaKD's table of strategies: B and C.
B = {
    "batch_size": 1024,
    "optimizer.name": "adamw",
    "optimizer.lr": 1e-3,
    "schedule.name": "cosine",
    "schedule.epochs": 300,
    "schedule.warmup_epochs": 20,
    "student.size": 224,
    "objective.label_loss": "ce",
}
C = {
    "batch_size": 512,
    "optimizer.name": "momentum",
    "optimizer.lr": 5e-2,
    "schedule.name": "cosine",
    "schedule.epochs": 2400,
    "schedule.warmup_epochs": 0,
    "student.size": 32,
    "precision": "fp32",
    "ema_decay": None,
    "objective.label_loss": "ce",
}
#: DKD's code for CIFAR, whose settings are CRD's: 240 epochs of batches of 64, divided by ten at 150, 180 and 210.
CIFAR = {
    "batch_size": 64,
    "optimizer.name": "momentum",
    "optimizer.lr": 5e-2,
    "optimizer.momentum": 0.9,
    "optimizer.filter_bias_and_bn": False,
    "schedule.name": "multistep",
    "schedule.epochs": 240,
    "schedule.decay_milestones": (150, 180, 210),
    "schedule.decay_rate": 0.1,
}
#: IPWD, ImageNet: 100 epochs of batches of 256, 0.1, divided by ten every 30 epochs.
STEPS_OF_30 = {
    "batch_size": 256,
    "optimizer.name": "momentum",
    "optimizer.lr": 0.1,
    "schedule.name": "step",
    "schedule.decay_epochs": 30,
    "schedule.decay_rate": 0.1,
}


@dataclass(frozen=True)
class Row:
    """A row of a table: recipe, paper, teacher, student, objective, top-1 in percent, settings and the policy."""

    recipe: str
    paper: str
    teacher: str
    student: str
    objective: str
    top1: str
    settings: dict[str, Any]
    policy: dict[str, Any] = field(default_factory=dict)


AS_A1, AS_A2 = MIXED | {"mixup": 0.2}, MIXED | {"mixup": 0.1}
ROWS = (
    Row("a2", "VanillaKD", "beitv2_l", "resnet50", "kd", "80.89", A2, AS_A2),
    # The baselines of the same command, `--bce-loss 1`: DKD with alpha 1 and beta 2, DIST with weight 1.
    Row("a2", "VanillaKD", "beitv2_l", "resnet50", "dkd", "80.77", {"objective.alpha": 1.0, "objective.beta": 2.0}, {}),
    Row("a2", "VanillaKD", "beitv2_l", "resnet50", "dist", "80.70", {"objective.kd_weight": 1.0}, {}),
    # `--bce-loss 0` for the methods on hints, CRD with weight 1.
    Row("a2", "VanillaKD", "resnet152", "resnet50", "crd", "79.33", {"objective.label_loss": "ce"}, {}),
    Row("a1", "VanillaKD", "beitv2_l", "resnet50", "kd", "81.68", A1 | {"schedule.epochs": 600}, AS_A1),
    Row("a1-1200", "VanillaKD", "beitv2_b", "resnet50", "kd", "82.35", A1 | {"schedule.epochs": 1200}, AS_A1),
    Row("a1-4800", "VanillaKD", "beitv2_b", "resnet50", "kd", "83.08", A1 | {"schedule.epochs": 4800}, AS_A1),
    Row("b", "VanillaKD", "resnet34", "resnet18", "kd", "73.46", B),
    Row("b", "VanillaKD", "resnet50_tv", "mobilenetv2", "dist", "74.26", B),
    Row("c", "VanillaKD", "resnet56", "resnet20", "kd", "72.34", C, {"crop": "padded", "pad": 4}),
    Row("c", "VanillaKD", "resnet32x4", "resnet8x4", "dkd", "78.15", C, {"crop": "padded", "pad": 4}),
    Row("previous-cifar", "VanillaKD", "resnet56", "resnet20", "kd", "70.66", CIFAR, {"crop": "padded", "mixup": 0.0}),
    Row("previous-cifar", "VanillaKD", "resnet32x4", "resnet8x4", "dist", "75.79", CIFAR, {"cutmix": 0.0}),
    Row("ipwd-cifar", "IPWD", "resnet56", "resnet20", "ipwd-cifar", "?", CIFAR, {"crop": "padded"}),
    Row("ipwd-cifar-mobile", "IPWD", "-", "-", "-", "?", CIFAR | {"optimizer.lr": 0.01}),
    Row("ipwd-imagenet", "IPWD", "resnet34", "resnet18", "ipwd", "?", STEPS_OF_30 | {"schedule.epochs": 100}),
    Row("previous-90", "VanillaKD", "resnet34", "resnet18", "kd", "70.66", STEPS_OF_30 | {"schedule.epochs": 90}),
    # DeiT-S under BEiTv2-L, and under ConvNeXt-XL.
    Row(
        "a2-deit-s", "VanillaKD", "beitv2_l", "deit_s", "kd", "?",
        {"optimizer.name": "adamw", "optimizer.lr": 5e-4, "optimizer.weight_decay": 0.07}, AS_A2,
    ),
    Row(
        "a2-deit-s-convnext", "VanillaKD", "convnext_xl", "deit_s", "kd", "?",
        {"optimizer.name": "adamw", "optimizer.lr": 7e-4, "optimizer.weight_decay": 0.05}, AS_A2,
    ),
)  # fmt: skip

#: timm's names of the papers' models.
MODELS = {
    "beitv2_b": "beitv2_base_patch16_224",
    "beitv2_l": "beitv2_large_patch16_224",
    "convnext_xl": "convnext_xlarge",
    "resnet152": "resnet152",
    "resnet50_tv": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "deit_s": "deit_small_patch16_224",
    "vit_t": "vit_tiny_patch16_224",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.recipe}: {row.teacher} -> {row.student}, {row.objective}")
def test_a_recipe_has_the_numbers_of_its_row(row: Row) -> None:
    chosen = (f"objective.name={row.objective}",) if row.objective != "-" else ()
    config = load_config(row.recipe, assignments=chosen)
    for name, expected in row.settings.items():
        found: Any = config
        for part in name.split("."):
            found = getattr(found, part)
        assert found == expected, name
    # The rate is that of the batch size that the paper trains with.
    assert config.with_lr_resolved().optimizer.lr == config.optimizer.lr
    for name, expected in row.policy.items():
        assert getattr(NAMED[str(config.views.policy)], name) == expected, name


@pytest.mark.parametrize("row", [row for row in ROWS if row.teacher != "-"], ids=lambda row: f"{row.recipe} {row.top1}")
def test_its_header_and_the_page_have_the_figure(row: Row, project_root) -> None:
    here = [
        (each.paper, each.teacher, each.student, each.objective, each.expected)
        for each in recipe_header(row.recipe).rows
        if not each.options or row.objective == "dkd"
    ]
    assert (row.paper, row.teacher, row.student, row.objective, row.top1) in here
    page = (project_root / "docs" / "papers.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    figure = row.top1 if row.top1 != "?" else "not at hand"
    epochs = f"{load_config(row.recipe).schedule.epochs:,}"
    assert [row.teacher, row.student, row.objective, row.recipe, epochs, figure] in [line[:6] for line in lines]


def test_short_names_are_the_papers_models() -> None:
    for name, expected in MODELS.items():
        assert architecture(name) == expected
