"""Images a second of `kdcache train` from a cache beside the same training supervised and with a live teacher.

    python benchmarks/step.py [--teachers NAME ...] [--student NAME] [--size S] [--batch-size N] [--runs N]
    python benchmarks/step.py --device cuda     # ResNet-50 under BEiTv2-B and BEiTv2-L, 224 pixels
    python benchmarks/step.py --calls           # what a step costs the host, by kind of targets
    python benchmarks/step.py --tiny            # a rehearsal of seconds, whose figures say nothing

Teachers of timm's with random weights, which take the time of trained ones, on JPEGs of coloured noise. All arms train
the same student on the same views: supervised, from a cache of each kind of targets, and with the teacher running.
Each is a process of its own, so that its peak memory is its own, and they take turns: a run is one training of each
arm. An epoch is `--steps` steps; the first is not counted, and the figures of an arm are the median of its other
epochs as metrics.csv has them. Ratios are of the arms of one run; the table has their median, least and most.

The limit of cached / live is (Ts + Tt) / Ts: Ts is the supervised time of an image, Tt the teacher's bare forward pass
on tensors that lie on the device, measured in the same run. Goals: cached / supervised 0.98 or more, cached / live 0.95
or more of its limit, peak memory at most 1.02 of the supervised one. On the CPU the peak is that of the process, with
torch and the loader in it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as kdcache's own commands set it

import timm
import torch
import yaml
from dump import BarePass, Setting, write_images
from steps import host_work

import kdcache
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.models.students import create_student
from kdcache.runtime.device import cores, processor_name, resolve_device, resolve_precision, use_all_cores
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import silent
from kdcache.training.export import export_model
from kdcache.training.logs import METRICS
from kdcache.training.metrics import read_metrics
from kdcache.training.options import TrainOptions
from kdcache.training.train import train
from kdcache.views.policies import load_policy

#: Kinds of targets and their dtypes, by the name that the table gives them.
KINDS: dict[str, tuple[str, str | None]] = {
    "topk": ("topk", None),
    "full, float32": ("full", "float32"),
    "full, uint8": ("full", "uint8"),
    "embedding, uint8": ("embedding", "uint8"),
    "embedding, float16": ("embedding", "float16"),
}
SUPERVISED, LIVE = "supervised", "live teacher"
GOAL_SUPERVISED, GOAL_LIVE, GOAL_MEMORY = 0.98, 0.95, 1.02
#: Supervised rates of several runs that are further apart show that something else runs on the machine.
MAX_SPREAD = 0.1


@dataclass(frozen=True)
class Figures:
    """Images a second, the share of the time that waited for data, and the peak of memory in bytes."""

    images_per_s: float
    wait_share: float
    memory: float


@dataclass
class Runs:
    """The figures of each arm by its name, run by run, and the bare rate of the teacher in each run."""

    arms: dict[str, list[Figures]] = field(default_factory=dict)
    bare: list[float] = field(default_factory=list)

    def rates(self, arm: str) -> list[float]:
        return [figures.images_per_s for figures in self.arms[arm]]

    def limits(self) -> list[float]:
        """(Ts + Tt) / Ts of each run."""
        return [1 + supervised / bare for supervised, bare in zip(self.rates(SUPERVISED), self.bare, strict=True)]

    def to_supervised(self, arm: str) -> list[float]:
        """The rate of an arm as a multiple of the supervised one, run by run."""
        return [mine / base for mine, base in zip(self.rates(arm), self.rates(SUPERVISED), strict=True)]

    def to_limit(self, arm: str) -> list[float]:
        """The rate of an arm as a multiple of the live teacher's, divided by its limit, run by run."""
        rates = zip(self.rates(arm), self.rates(LIVE), self.limits(), strict=True)
        return [mine / live / limit for mine, live, limit in rates]

    def memory(self, arm: str) -> list[float]:
        """The peak of memory of an arm as a multiple of the supervised one, run by run."""
        pairs = zip(self.arms[arm], self.arms[SUPERVISED], strict=True)
        return [mine.memory / base.memory for mine, base in pairs]

    @property
    def spread(self) -> float:
        """How far the supervised rates are apart, as a share of their median."""
        rates = self.rates(SUPERVISED)
        return (max(rates) - min(rates)) / statistics.median(rates)


def train_options(asked: argparse.Namespace, arm: str, setting: Setting, teacher: str, out: Path) -> TrainOptions:
    """The training of an arm: the same student, settings and views whatever it learns from."""
    overrides = [
        f"student.size={asked.size}",
        "schedule.warmup_epochs=0",
        "optimizer.lr=0.001",
        "eval_epochs=0",
        "objective.label_loss=ce",
    ]
    if arm in (SUPERVISED, LIVE):
        policy = yaml.safe_dump(load_policy(asked.policy).to_json(), default_flow_style=True, width=10_000).strip()
        overrides += [f"views.policy={policy}", "views.seed=0"]
    cached, live = arm in KINDS, arm == LIVE
    return TrainOptions(
        student=asked.student,
        data=setting.data,
        cache=str(cache_of(setting, arm)) if cached else None,
        epochs=asked.epochs,
        recipe=asked.recipe,
        overrides=tuple(overrides),
        out=out,
        seed=0,
        batch_size=asked.batch_size,
        supervised=arm == SUPERVISED,
        online_teacher=teacher if live else None,
        teacher_weights=weights_of(setting, teacher) if live else None,
        device=str(setting.device),
        renderer=asked.renderer,
    )


def cache_of(setting: Setting, arm: str) -> Path:
    """The cache of a kind of targets."""
    return setting.folder / arm.replace(", ", "-")


def weights_of(setting: Setting, teacher: str) -> Path:
    """The random weights of a teacher, as timm loads them."""
    return setting.folder / "weights" / teacher


def prepare(asked: argparse.Namespace, setting: Setting, teacher: str) -> list[str]:
    """Draw the teacher's weights, and write a cache of each kind; return the arms."""
    network = create_student(teacher, num_classes=setting.classes, size=setting.size, seed=0)
    weights = export_model(weights_of(setting, teacher), network)
    for name in asked.kinds:
        kind, dtype = KINDS[name]
        dump(
            DumpOptions(
                teacher=teacher,
                data=setting.data,
                cache=str(cache_of(setting, name)),
                weights=weights,
                size=setting.size,
                views=asked.epochs,
                targets=kind,
                dtype=dtype,
                policy=asked.policy,
                batch_size=setting.batch_size,
                device=str(setting.device),
                renderer=asked.renderer,
            ),
            silent,
        )
    return [SUPERVISED, *asked.kinds, LIVE]


def figures_of(folder: Path) -> Figures:
    """The medians of the epochs of a run behind the first one."""
    rows = read_metrics(folder / METRICS)[1:]
    rate, waited = (statistics.median(row[name] or 0.0 for row in rows) for name in ("images_per_s", "wait_share"))
    return Figures(rate, waited, max(row["memory_bytes"] or 0.0 for row in rows))


def run_arm(asked: argparse.Namespace, arm: str, setting: Setting, teacher: str) -> Figures:
    """Train an arm once, in a process of its own; in this one where it is a rehearsal."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        options = train_options(asked, arm, setting, teacher, Path(folder) / "run")
        if asked.tiny:
            train(options, silent)
        else:
            values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
            given = {name: value for name, value in values.items() if value != getattr(TrainOptions, name, None)}
            subprocess.run([sys.executable, __file__, "--train", json.dumps(given)], check=True)
        return figures_of(Path(folder) / "run")


def train_here(text: str) -> None:
    """Train what `run_arm` asked for, in this process."""
    values = json.loads(text)
    values["overrides"] = tuple(values["overrides"])
    paths = {name: Path(values[name]) for name in ("out", "teacher_weights") if values.get(name) is not None}
    train(TrainOptions(**{**values, **paths}), silent)


def measure(asked: argparse.Namespace, setting: Setting, teacher: str) -> Runs:
    """All runs with one teacher; every second one goes through the arms from the last to the first."""
    arms, found = prepare(asked, setting, teacher), Runs()
    for run in range(asked.runs):
        bare = BarePass(setting, teacher, weights_of(setting, teacher))
        found.bare.append(bare.rate())
        del bare  # its weights would lie on the device beside the arms
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
        for arm in arms if run % 2 == 0 else reversed(arms):
            found.arms.setdefault(arm, []).append(run_arm(asked, arm, setting, teacher))
    return found


def rows(teacher: str, runs: Runs) -> list[str]:
    """The lines of the table for one teacher."""
    found = []
    for arm, figures in runs.arms.items():
        cells = [
            f"{statistics.median(runs.rates(arm)):,.1f}",
            f"{statistics.median(each.wait_share for each in figures):.1%}",
            f"{statistics.median(each.memory for each in figures) / 2**20:,.0f}",
            *(("", "", "") if arm == SUPERVISED else _ratios(runs, arm)),
        ]
        found.append(f"| {teacher} | {arm} | {' | '.join(cells)} |")
    return found


def _ratios(runs: Runs, arm: str) -> tuple[str, str, str]:
    to_limit = "" if arm == LIVE else _with_range(runs.to_limit(arm))
    return _with_range(runs.to_supervised(arm)), to_limit, _with_range(runs.memory(arm))


def _with_range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def missed(teacher: str, runs: Runs) -> list[str]:
    """The goals that a cache of this teacher does not reach, and why figures may show nothing."""
    found = []
    for arm in filter(KINDS.__contains__, runs.arms):
        medians = [statistics.median(values) for values in (runs.to_supervised(arm), runs.to_limit(arm))]
        memory = statistics.median(runs.memory(arm))
        for value, goal, what in zip(medians, (GOAL_SUPERVISED, GOAL_LIVE), ("supervised", "the limit"), strict=True):
            if value < goal:
                found.append(f"{teacher}, {arm}: {value:.3f} of {what}, and the goal is {goal} or more.")
        if memory > GOAL_MEMORY:
            found.append(f"{teacher}, {arm}: memory is {memory:.3f} of supervised, and the goal is {GOAL_MEMORY}.")
    if runs.spread > MAX_SPREAD:
        found.append(
            f"The supervised runs beside {teacher} differ by {runs.spread:.0%}, so that the machine was busy with "
            "other work: run it again when nothing else runs."
        )
    return found


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, whose defaults depend on the device and on `--tiny`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", metavar="NAME", help="timm names, from small to large")
    parser.add_argument("--student", metavar="NAME", help="timm name")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", choices=KINDS, help=f"of {'; '.join(KINDS)}")
    parser.add_argument("--size", type=int, help="pixels a side, of student and teachers; default 32, on a GPU 224")
    parser.add_argument("--batch-size", type=int, help="of student and teachers; default 128, on a GPU 256")
    parser.add_argument("--steps", type=int, help="of an epoch; default 24, on a GPU 40")
    parser.add_argument("--epochs", type=int, default=3, help="of a training, of which the first is not counted")
    parser.add_argument("--runs", type=int, help="default 3")
    parser.add_argument("--recipe", default="fashion-mnist")
    parser.add_argument("--policy", default="crop", help="policy of the views")
    parser.add_argument("--renderer", default="dali", choices=("dali", "pillow"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--calls", action="store_true", help="count operations and CPU time of a step on the host")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal, whose figures say nothing")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.epochs < 2:
        parser.error(f"--epochs {asked.epochs} leaves no epoch behind the first one, which is not counted: give 2")
    asked.device = resolve_device(asked.device)
    column = 0 if asked.tiny else 2 if asked.device.type == "cuda" else 1
    defaults: dict[str, tuple[object, object, object]] = {
        "teachers": (
            ["test_vit"],
            ["resnet18", "resnet50"],
            ["beitv2_base_patch16_224", "beitv2_large_patch16_224"],
        ),
        "student": ("test_resnet", "resnet18", "resnet50"),
        "kinds": (["topk", "embedding, uint8"], list(KINDS), list(KINDS)),
        "size": (32, 32, 224),
        "batch_size": (8, 128, 256),
        "steps": (2, 24, 40),
        "runs": (1, 3, 3),
    }
    for name, values in defaults.items():
        setattr(asked, name, getattr(asked, name) or values[column])
    asked.samples = asked.steps * asked.batch_size
    return asked


def main() -> int:
    """Print the table; return 1 where a goal is missed or the figures show nothing, and say why."""
    asked = parsed(sys.argv[1:])
    if asked.train is not None:
        train_here(asked.train)
        return 0
    use_all_cores()
    machine = processor_name() if asked.device.type == "cpu" else torch.cuda.get_device_name(asked.device)
    print(
        f"{machine}, {cores()} cores; kdcache {kdcache.__version__}, torch {torch.__version__}, timm "
        f"{timm.__version__}; ",
        end="",
    )
    if asked.calls:
        rows_of_batch, classes = (8, 10) if asked.tiny else (128, 1000)
        print(f"batches of {rows_of_batch}, {classes:,} classes\n")
        print(*host_work.table(rows_of_batch, classes, 1 if asked.tiny else 25), sep="\n")
        return 0
    precision = resolve_precision("auto", asked.device)
    print(
        f"student {asked.student}, {asked.size} pixels, {precision}, batches of {asked.batch_size}, "
        f"{asked.steps} steps an epoch, {format_count(asked.epochs - 1, 'epoch')} counted, "
        f"{format_count(asked.runs, 'run')}; policy {asked.policy}, renderer {asked.renderer}\n"
    )
    print("| teacher | learns from | images/s | waited | MB at most | / supervised | / live, of its limit | memory |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    reasons = []
    for teacher in asked.teachers:
        runs = measured(asked, teacher)
        print(*rows(teacher, runs), sep="\n", flush=True)
        reasons += missed(teacher, runs)
    if asked.tiny:
        print("\nA rehearsal: these figures say nothing.")
        return 0
    print(*reasons, sep="\n", file=sys.stderr)
    return 1 if reasons else 0


def measured(asked: argparse.Namespace, teacher: str) -> Runs:
    """The runs with one teacher, in a temporary folder of their own."""
    with tempfile.TemporaryDirectory() as temporary:
        classes = 10 if asked.tiny else 1000
        setting = Setting(
            write_images(Path(temporary) / "data", asked, classes),
            Path(temporary),
            asked.samples,
            asked.size,
            asked.batch_size,
            classes,
            asked.device,
            asked.policy,
            asked.renderer,
            "topk",
        )
        return measure(asked, setting, teacher)


if __name__ == "__main__":
    sys.exit(main())
