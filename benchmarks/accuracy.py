"""What a cache costs in accuracy: students that learn from the live teacher, and from what each kind of cache keeps.

    python benchmarks/accuracy.py --out FOLDER [--only 'fashion-mnist/kd/*'] [--seeds 0 1 2]
    python benchmarks/accuracy.py --out FOLDER --report

Two settings: Fashion-MNIST, with the demo's teacher and student, and 94 characters in hundreds of fonts (`fonts.py`),
where a top-k has something to lose. Each arm, SETTING/OBJECTIVE/SOURCE/SEED, is one training of 20 epochs and one line
of FOLDER/results.jsonl. Stopped or killed and started again, the command goes on in the very training that it was in.
A seed is that of views and student alike; the arms of one seed see the same views and begin with the same weights.

It needs a checkout, Debian's package dataset-fashion-mnist (or --fashion-mnist FOLDER) and its fonts:

    apt-get install --no-install-recommends dataset-fashion-mnist $(python benchmarks/fonts.py --packages)

All of it takes some two hours on two idle CPU cores. `docs/accuracy.md` has what it printed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as kdcache's own commands set it

from costs.arms import all_arms, run
from costs.report import tables
from costs.results import Results, versions
from costs.settings import EPOCHS, FashionMnist, Fonts, Material, Setting

from kdcache.data.importers.fashion_mnist import DEBIAN
from kdcache.runtime.progress import Progress
from kdcache_cli.console import ConsoleProgress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for everything; the same one to go on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="arms, such as 'fonts/kd/*/0'")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--fashion-mnist", type=Path, default=DEBIAN, metavar="FOLDER", help="the original files")
    parser.add_argument("--report", action="store_true", help="print the tables of what is done, and end")
    asked = parser.parse_args()
    results = Results(asked.out / "results.jsonl")
    if not asked.report:
        settings: Sequence[Setting] = (FashionMnist(asked.fashion_mnist), Fonts())
        compare(settings, asked.out, asked.seeds, asked.only, asked.epochs, results, ConsoleProgress())
    print(", ".join(f"{name} {number}" for name, number in versions().items()), end="\n\n")
    print(tables(results.all(), asked.epochs))
    return 0


def compare(
    settings: Sequence[Setting],
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str],
    epochs: int,
    results: Results,
    progress: Progress,
) -> None:
    """Run every arm that is asked for and has no result yet."""
    by_name = {setting.name: setting for setting in settings}
    materials: dict[str, Material] = {}
    done = {(result.arm, result.epochs) for result in results.all()}
    for arm in all_arms(seeds):
        if (str(arm), epochs) in done or not any(fnmatchcase(str(arm), pattern) for pattern in only):
            continue
        if not arm.is_possible:
            progress.warn(f"{arm} is left out: this kdcache has no such targets.")
            continue
        folder = out / arm.setting
        folder.mkdir(parents=True, exist_ok=True)
        if arm.setting not in materials:
            materials[arm.setting] = by_name[arm.setting].prepare(folder, progress)
        progress.say(f"== {arm}")
        result = run(arm, materials[arm.setting], folder / f"{epochs}-epochs", epochs, progress)
        results.add(result)
        progress.say(f"== {arm}: top-1 {result.top1:.2%}, in {result.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
