"""The commands in the order of work, each with its group in --help and an example.

A command is a row of the table: its name, "GROUP NAME" for one of a group, and the function that runs it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import getdoc
from typing import Any

import typer
from typer.core import TyperGroup

from kdcache_cli import recipes
from kdcache_cli.cache_copy import copy
from kdcache_cli.cache_sharing import card, pull, push
from kdcache_cli.demo import demo
from kdcache_cli.doctor import doctor
from kdcache_cli.dump_logits import dump_logits
from kdcache_cli.evaluate import evaluate
from kdcache_cli.export import export
from kdcache_cli.import_cifar import cifar
from kdcache_cli.import_fashion_mnist import fashion_mnist
from kdcache_cli.import_folder import folder
from kdcache_cli.import_hf import hf
from kdcache_cli.import_imagenet import imagenet
from kdcache_cli.import_webdataset import webdataset
from kdcache_cli.index import index
from kdcache_cli.inspect import inspect
from kdcache_cli.messages import with_messages
from kdcache_cli.policies import policies
from kdcache_cli.preview import preview
from kdcache_cli.report import report
from kdcache_cli.train import train
from kdcache_cli.verify import verify

BEGIN, DATA = "Begin", "Data and views"
TEACHER, STUDENTS = "Stage 1: the teacher's targets", "Stage 2: students"


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        panel: heading in the help of the whole under which it, or the group that it is the first of, is shown.
        examples: lines of shell; each has at most 78 characters, so that a terminal of 80 columns does not fold it.
    """

    name: str
    run: Callable[..., None]
    panel: str
    examples: tuple[str, ...]


COMMANDS = (
    Command("doctor", doctor, BEGIN, ("kdcache doctor --data data/train --cache cache",)),
    Command("demo", demo, BEGIN, ("kdcache demo --quick", "kdcache demo --seed 1 --out demo-1")),
    Command("import folder", folder, DATA, ("kdcache import folder images/train data/train",)),
    Command("import imagenet", imagenet, DATA, ("kdcache import imagenet ILSVRC2012_img_train.tar data/train",)),
    Command("import cifar", cifar, DATA, ("kdcache import cifar cifar-100-binary.tar.gz data/train --split train",)),
    Command("import hf", hf, DATA, ("kdcache import hf dataset/ data/train --split train",)),
    Command("import webdataset", webdataset, DATA, ("kdcache import webdataset shards/ data/train --label json:id",)),
    Command("import fashion-mnist", fashion_mnist, DATA, ("kdcache import fashion-mnist data/train --limit 600",)),
    Command("index", index, DATA, ("kdcache index data/train", "kdcache index data/train --check --mark-bad")),
    Command("policies", policies, DATA, ("kdcache policies", "kdcache policies a2")),
    Command("preview", preview, DATA, ("kdcache preview --data data/train --policy a2 --out preview.html",)),
    Command(
        "dump-logits",
        dump_logits,
        TEACHER,
        (
            "kdcache dump-logits --teacher beitv2_b --data data/train --dry-run",
            "kdcache dump-logits --teacher beitv2_b --data data/train --cache cache",
        ),
    ),
    Command("inspect", inspect, TEACHER, ("kdcache inspect cache --data data/train",)),
    Command("verify", verify, TEACHER, ("kdcache verify cache", "kdcache verify cache --repair")),
    Command("cache inspect", inspect, TEACHER, ("kdcache cache inspect cache --json",)),
    Command("cache verify", verify, TEACHER, ("kdcache cache verify cache --data data/train --teacher beitv2_b",)),
    Command("cache copy", copy, TEACHER, ("kdcache cache copy cache s3://bucket/cache --views 0:50",)),
    Command("cache push", push, TEACHER, ("kdcache cache push cache hf://datasets/me/a2-beitv2-b --views 0:50",)),
    Command("cache pull", pull, TEACHER, ("kdcache cache pull hf://datasets/me/a2-beitv2-b cache",)),
    Command("cache card", card, TEACHER, ("kdcache cache card cache --data data/train",)),
    Command("recipes list", recipes.list_all, STUDENTS, ("kdcache recipes list",)),
    Command("recipes show", recipes.show, STUDENTS, ("kdcache recipes show a2",)),
    Command("recipes copy", recipes.copy, STUDENTS, ("kdcache recipes copy a2 mine.yaml",)),
    Command("recipes diff", recipes.diff, STUDENTS, ("kdcache recipes diff a2 a1",)),
    Command(
        "train",
        train,
        STUDENTS,
        (
            "kdcache train --student resnet50 --data data/train --val data/val",
            "kdcache train --student vit_s --recipe a2-vit-s --set schedule.epochs=30",
        ),
    ),
    Command("evaluate", evaluate, STUDENTS, ("kdcache evaluate runs/first --data data/val --reference beitv2_b",)),
    Command("export", export, STUDENTS, ("kdcache export runs/first --format onnx --out first-onnx",)),
    Command("report", report, STUDENTS, ("kdcache report runs/first runs/second --data data/val",)),
)

#: What a group of commands is for.
GROUPS = {
    "import": "Turn images into webdataset shards.",
    "cache": "Look into, check, copy and share caches.",
    "recipes": "List, show, copy and compare the recipes: named training configurations.",
}
#: Names in the order of work; groups where their first command is.
ORDER = tuple(dict.fromkeys(command.name.split()[0] for command in COMMANDS))


class InOrder(TyperGroup):
    """A group that lists its commands in the order of the table, in which typer would put groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else 0)


def add_commands(app: typer.Typer) -> None:
    """Add every command of the table, and the groups that they are in."""
    groups = {name: typer.Typer(help=text, no_args_is_help=name != "recipes") for name, text in GROUPS.items()}
    groups["recipes"].callback(invoke_without_command=True)(recipes.list_by_default)
    for command in COMMANDS:
        first, _, second = command.name.partition(" ")
        epilog = "\n\n".join([f"Example{'s' * (len(command.examples) > 1)}:", *command.examples])
        run = with_messages(command.run, note=command.name != "doctor")  # the doctor reports it as a finding
        text = _unfolded(getdoc(command.run) or "")
        if not second:
            app.command(first, help=text, epilog=epilog, rich_help_panel=command.panel)(run)
            continue
        if not groups[first].registered_commands:
            app.add_typer(groups[first], name=first, rich_help_panel=command.panel)
        groups[first].command(second, help=text, epilog=epilog)(run)


def _unfolded(text: str) -> str:
    """Return a text with each paragraph on one line, which a terminal of any width folds."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
