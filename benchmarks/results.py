"""A small table of distillation from recipe files alone, on real images: teacher, cache, students of three seeds.

    python benchmarks/results.py --out FOLDER
    python benchmarks/results.py --out FOLDER --page docs/results.md

Fashion-MNIST at 32 pixels with kdcache's networks for CIFAR and the recipe `previous-cifar`: a teacher learns from
labels, its targets are cached, and students learn from labels alone and by KD, DKD and DIST. Each step is a command of
kdcache, which is printed and can be run by hand in FOLDER. Of the recipe only the number of epochs is changed, and what
the recipe counts in epochs (steps of the rate, DKD's warm-up) in the same proportion.

A command that has ended is not run again, and one that was stopped goes on, so the same call resumes. Students are
trained seed by seed, and a seed's students are scored on all 10,000 test images. --page, with the other options as they
were, runs nothing: it writes the table of the seeds that are scored so far into a page, and its numbers beside this
script (results.json). --tiny rehearses everything on a few images.

It needs a checkout and Debian's package dataset-fashion-mnist (or --source FOLDER):

    apt-get install --no-install-recommends dataset-fashion-mnist
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from costs.results import versions
from results_page import Findings, Scored, block, with_block

from kdcache.training.config import RunConfig, load_config
from kdcache.training.files import replace_file

RECIPE = "previous-cifar"
RECORD = Path(__file__).with_suffix(".json")
#: Objectives as rows of the table, with the name that `objective.name` has; None learns from labels alone.
OBJECTIVES: dict[str, str | None] = {"labels alone": None, "KD": "kd", "DKD": "dkd", "DIST": "dist"}
#: Epochs of objectives' warm-up under the recipe.
WARMUPS = {"dkd": 20}

Words = Sequence[str]
Run = Callable[[Words, Path], str]


@cache
def recipe() -> RunConfig:
    """The recipe as it ships."""
    return load_config(RECIPE)


@dataclass(frozen=True)
class Chain:
    """The commands of the whole chain, with paths relative to its folder.

    Attributes:
        images, test_images: number of images to learn from, and to score on; None for all.
        epochs, teacher_epochs: of each student, and of the teacher.
        source: what `kdcache import fashion-mnist --source` takes; None for its default.
    """

    images: int
    test_images: int | None
    teacher: str
    student: str
    epochs: int
    teacher_epochs: int
    seeds: tuple[int, ...]
    source: str | None = None

    def preparation(self) -> list[Words]:
        """The data, the teacher and the cache, in their order."""
        cache = ["dump-logits", "--teacher", "runs/teacher/export", "--name", self.teacher, "--data", "train"]
        cache += ["--cache", "cache", "--policy", recipe().views.policy, "--views", str(self.epochs)]
        return [
            self._import("train", self.images),
            self._import("test", self.test_images),
            [*self._train(self.teacher, "teacher", self.teacher_epochs, seed=0), "--supervised"],
            [*cache, "--for", "kd-cifar,dkd-cifar,dist-cifar", "--device", "cpu"],
        ]

    def student_run(self, row: str, seed: int) -> Words:
        """The training of a student."""
        name = OBJECTIVES[row]
        words = self._train(self.student, self.folder(row, seed), self.epochs, seed)
        if name is None:
            return [*words, "--supervised"]
        words += ["--cache", "cache", "--set", f"objective.name={name}"]
        if name in WARMUPS:
            words += ["--set", f"objective.warmup_epochs={self._scaled(WARMUPS[name], self.epochs)}"]
        return words

    def evaluation(self, seed: int) -> Words:
        """The scores of the students of a seed, beside the teacher."""
        models = [f"runs/{self.folder(row, seed)}" for row in OBJECTIVES]
        return ["evaluate", *models, "--reference", "runs/teacher", "--data", "test", "--device", "cpu", "--json"]

    def folder(self, row: str, seed: int) -> str:
        """The folder of a student below runs/."""
        return f"{OBJECTIVES[row] or 'alone'}-{seed}"

    def _import(self, split: str, limit: int | None) -> Words:
        words = ["import", "fashion-mnist", split, "--split", split]
        words += [] if limit is None else ["--limit", str(limit)]
        return words if self.source is None else [*words, "--source", self.source]

    def _train(self, model: str, folder: str, epochs: int, seed: int) -> list[str]:
        steps = {self._scaled(step, epochs) for step in recipe().schedule.decay_milestones}
        words = ["train", "--student", model, "--recipe", RECIPE, "--data", "train", "--epochs", str(epochs)]
        words += ["--set", f"schedule.decay_milestones={json.dumps(sorted(steps))}", "--seed", str(seed)]
        return [*words, "--device", "cpu", "--out", f"runs/{folder}"]

    def _scaled(self, recipe_epochs: float, epochs: int) -> int:
        """The epoch of a shorter training that stands for one of the recipe's."""
        return max(1, round(recipe_epochs * epochs / recipe().schedule.epochs))


TINY = Chain(
    images=66, test_images=32, teacher="resnet14", student="resnet8", epochs=2, teacher_epochs=2, seeds=(0,),
    source="sample",
)  # fmt: skip


@dataclass
class Folder:
    """The folder of a chain, which remembers the commands that have ended, their seconds and what they printed."""

    path: Path
    run: Run
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self.ended = {entry["command"]: entry for entry in json.loads(self._file.read_text("utf-8"))}

    def call(self, words: Words) -> str:
        """Run a command unless it has ended before; return what it printed."""
        command = as_typed(words)
        if command not in self.ended:
            print(command, flush=True)
            start = time.perf_counter()
            printed = self.run(words, self.path)
            seconds = round(time.perf_counter() - start, 1)
            entry = {"command": command, "seconds": seconds, "versions": versions(), "printed": printed}
            # Another thread may end a command meanwhile: the value is replaced and never changed.
            self.ended = {**self.ended, command: entry}
            replace_file(self._file, json.dumps(list(self.ended.values()), indent=1).encode())
        return str(self.ended[command]["printed"])

    @property
    def _file(self) -> Path:
        return self.path / "commands.json"


def as_typed(words: Words) -> str:
    """A command as one types it."""
    return shlex.join(("kdcache", *words))


def run_command(words: Words, folder: Path, *, program: Words = (sys.executable, "-m", "kdcache_cli")) -> str:
    """Run a command of this checkout in a folder; return what `evaluate` printed on stdout, and else nothing."""
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root), str(root / "cli"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE if words[0] == "evaluate" else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"`{as_typed(words)}` ended with {done.returncode}, so the chain stops here. Its message is above; the "
            "same call of this script goes on with that command."
        )
    return done.stdout or ""


def run_chain(chain: Chain, folder: Folder, jobs: int) -> None:
    """Run what has not ended yet, seed by seed; `jobs` commands at a time once the cache is there."""
    for words in chain.preparation():
        folder.call(words)
    with ThreadPoolExecutor(jobs) as pool:
        scored = []
        for seed in chain.seeds:
            list(pool.map(folder.call, [chain.student_run(row, seed) for row in OBJECTIVES]))
            # Beside the students of the next seed.
            scored.append(pool.submit(folder.call, chain.evaluation(seed)))
        for future in scored:
            future.result()


def find(chain: Chain, folder: Folder, command: str) -> Findings:
    """What is known of the seeds that are scored."""
    seeds = [seed for seed in chain.seeds if as_typed(chain.evaluation(seed)) in folder.ended]
    if not seeds:
        raise SystemExit("No seed is scored yet. Call this script without --page, which goes on.")
    evaluated = [folder.ended[as_typed(chain.evaluation(seed))] for seed in seeds]
    scores = [score for entry in evaluated for score in json.loads(entry["printed"])["scores"]]
    by_model = {score["model"]: _scored(score) for score in scores}
    first, *_ = seeds
    commands = [*chain.preparation(), *(chain.student_run(row, first) for row in OBJECTIVES), chain.evaluation(first)]
    return Findings(
        chain=asdict(chain),
        command=command,
        test_images=scores[0]["samples"],
        teacher=by_model["runs/teacher"],
        students={row: [by_model[f"runs/{chain.folder(row, seed)}"] for seed in seeds] for row in OBJECTIVES},
        scored_seeds=seeds,
        commands=[as_typed(words) for words in commands],
        seconds=_seconds(chain, folder, seeds),
        versions=evaluated[0]["versions"],
        machine=machine(),
    )


def _scored(score: dict[str, Any]) -> Scored:
    beside = score.get("comparison", {})
    return Scored(score["top1"], score["nll"], score["ece"], beside.get("agreement"), beside.get("kl"))


def _seconds(chain: Chain, folder: Folder, seeds: Sequence[int]) -> dict[str, float]:
    def total(commands: Sequence[Words]) -> float:
        return round(sum(folder.ended[as_typed(words)]["seconds"] for words in commands))

    data, test, teacher, cache = chain.preparation()
    return {
        "data": total([data, test]),
        "teacher": total([teacher]),
        "cache": total([cache]),
        **{f"students, {row}": total([chain.student_run(row, seed) for seed in seeds]) for row in OBJECTIVES},
        "scores": total([chain.evaluation(seed) for seed in seeds]),
    }


def machine() -> str:
    """The processor and how many of its cores there are."""
    info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for everything; the same one to go on")
    parser.add_argument("--images", type=int, default=768, help="training images")
    parser.add_argument("--epochs", type=int, default=8, help="of each student; also the views of the cache")
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--teacher", default="wrn_16_2")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", help="folder with the original files (default: Debian's)")
    parser.add_argument("--jobs", type=int, default=1, help="students trained at a time")
    parser.add_argument("--tiny", action="store_true", help="rehearse on a few images; scores have no meaning")
    parser.add_argument("--page", type=Path, help="page to write the table of what is scored into; nothing is run")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, run: Run = run_command) -> int:
    """Run the chain, or write the page."""
    asked = parse(arguments)
    chain = Chain(
        asked.images, None, asked.teacher, asked.student, asked.epochs, asked.teacher_epochs, tuple(asked.seeds)
    )
    chain = TINY if asked.tiny else replace(chain, source=asked.source)
    folder = Folder(asked.out, run)
    if asked.page is None:
        run_chain(chain, folder, asked.jobs)
    found = find(chain, folder, _command(chain))
    print(f"\n{block(found)}")
    if asked.page is not None:
        replace_file(asked.page, with_block(asked.page.read_text("utf-8"), block(found)).encode())
        replace_file(asked.page.with_name(RECORD.name) if asked.tiny else RECORD, found.to_json().encode())
    return 0


def _command(chain: Chain) -> str:
    sizes = f"--images {chain.images} --epochs {chain.epochs} --teacher-epochs {chain.teacher_epochs}"
    names = f"--teacher {chain.teacher} --student {chain.student} --seeds {' '.join(map(str, chain.seeds))}"
    return "python benchmarks/results.py --out FOLDER " + ("--tiny" if chain == TINY else f"{sizes} {names}")


if __name__ == "__main__":
    sys.exit(main())
