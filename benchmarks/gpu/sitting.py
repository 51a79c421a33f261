"""Every check that needs a GPU, in the order of what it proves, in one sitting of at most `--limit` seconds.

    KDCACHE_GPU_PACK=FOLDER python benchmarks/gpu/sitting.py [--limit SECONDS] [--only PART ...] [--resume]
    python benchmarks/gpu/sitting.py --device cpu --tiny    # a rehearsal without a GPU

It needs PyTorch, torchvision and timm. What else kdcache needs is found in the folder that the variable names: unpacked
wheels, or the parts that `pack.py` has written, which are unpacked first. Each part runs in a process of its own under
its own time limit. The page is written anew whenever a part begins or ends and every few seconds between, so that there
is one whatever happens: a part that fails, crashes or takes too long leaves what it had found, and SIGTERM ends the
sitting with its page. Exits with 1 when something does not hold, has failed or has not run. docs/gpu.md says what each
part proves.
"""

import argparse
import contextlib
import datetime
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from gpu.page import Result, markdown, read_results, read_tables, replace_text, write_results
from gpu.plan import PARTS, Part
from gpu.process import run_process
from gpu.unpack import environment_with, is_pack

#: Variable that names the folder of packages.
PACK = "KDCACHE_GPU_PACK"
#: The part that unpacks the packages where a pack is given, and the seconds that it may take.
_PACKAGES, _UNPACKING = "packages", 120.0
#: Script of a part's process.
_SCRIPT = HERE / "part.py"
#: Seconds that are left at the end for the page.
_RESERVE = 3.0
#: Seconds that a whole sitting may take on a GPU, and how many times as long it and each part may take on a CPU.
_LIMIT, _PATIENCE_ON_CPU = 720.0, 10.0


class Stopped(BaseException):
    """A signal asked the sitting to end."""


class Sitting:
    """The parts that were asked for, what they have found, and the page of it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._out = Path(asked.out)
        self._end = time.monotonic() + asked.limit
        self._started = datetime.datetime.now(datetime.UTC)
        self._variables = variables_with(None)
        self._decode = "auto"
        self._out.mkdir(parents=True, exist_ok=True)
        kept = read_results(self._out / "results.json") if asked.resume else {}
        self._results = {part.name: kept.get(part.name, Result(part.name, "not run")) for part in PARTS}
        if not asked.resume:
            self._log.unlink(missing_ok=True)

    @property
    def page(self) -> Path:
        """File of the page."""
        return self._out / "page.md"

    @property
    def results(self) -> list[Result]:
        """The parts, without those that stand in for another that holds."""
        counting = {part.name for part in PARTS if self._counts(part)} | {_PACKAGES}
        return [result for name, result in self._results.items() if name in counting]

    def run(self) -> bool:
        """Run the parts; return whether everything holds. The page is there in any case."""
        try:
            if self._has_packages():
                for part in PARTS:
                    if self._is_due(part):
                        self._run_part(part)
                    self._go_on_after(part)
        except Stopped as stop:
            for result in self.results:
                if result.state == "running":
                    self._note(replace(result, state="stopped", cause=str(stop)))
        self._write_page()
        return all(result.holds for result in self.results)

    def _has_packages(self) -> bool:
        """Find the packages, which are unpacked if they are a pack; return whether they are there."""
        if not (given := os.environ.get(PACK)):
            return True
        folder = Path(given).resolve()
        self._results = {_PACKAGES: Result(_PACKAGES, "not run")} | self._results
        if not folder.is_dir():
            self._note(Result(_PACKAGES, "failed", cause=f"{PACK} names {given}, which is no folder"))
            return False
        if is_pack(folder):
            site = Path(self._asked.packages)
            command = [sys.executable, str(HERE / "unpack.py"), str(folder), str(site)]
            self._run(_PACKAGES, command, self._variables, _UNPACKING)
            folder = site
        else:
            self._note(Result(_PACKAGES, "done"))
        self._variables = variables_with(folder)
        return self._results[_PACKAGES].holds

    def _counts(self, part: Part) -> bool:
        """Whether a part stands on the page: chosen or run before, and not in the place of one that holds."""
        is_chosen = part.name in self._asked.only or self._results[part.name].state != "not run"
        return is_chosen and (part.only_after is None or self._has_failed(part.only_after))

    def _has_failed(self, name: str) -> bool:
        result = self._results[name]
        return result.state not in ("not run", "running") and not result.holds

    def _is_due(self, part: Part) -> bool:
        if part.name not in self._asked.only or not self._counts(part):
            return False
        return not (self._asked.resume and self._results[part.name].state == "done")

    def _go_on_after(self, part: Part) -> None:
        """Where a part that stands in for another one holds, the later ones run as it did."""
        result = self._results[part.name]
        if part.only_after is not None and self._counts(part) and result.state == "done" and result.holds:
            self._variables |= part.variables
            self._decode = part.decode or self._decode

    def _run_part(self, part: Part) -> None:
        command = [sys.executable, str(_SCRIPT), part.name, "--tables", str(self._found)]
        command += ["--device", self._asked.device, "--decode", part.decode or self._decode]
        command += ["--tiny"] if self._asked.tiny else []
        self._run(part.name, command, {**self._variables, **part.variables}, part.limit)

    def _run(self, name: str, command: Sequence[str], variables: Mapping[str, str], limit: float) -> None:
        """Run the process of a part, and note what it has found and how it has ended."""
        start = time.monotonic()
        limit = min(limit * self._asked.patience, self._end - _RESERVE - start)
        if limit <= 0:
            return self._note(Result(name, "not run", cause="the time of the sitting had ended"))
        self._found.unlink(missing_ok=True)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"\n== {name} ==\n")

        def now(result: Result) -> Result:
            return replace(result, seconds=time.monotonic() - start, tables=read_tables(self._found))

        result = Result(name, "running")
        self._note(result)
        try:
            ending = run_process(command, dict(variables), limit, self._log, lambda: self._note(now(result)))
            if ending.code == 0:
                result = replace(result, state="done")
            else:
                why = ending.describe(limit)
                result = replace(result, state="out of time" if ending.code is None else "failed", cause=why)
        except OSError as error:
            result = replace(result, state="failed", cause=f"no process can be started: {error}")
        finally:
            self._note(now(result))
            self._found.unlink(missing_ok=True)

    def _note(self, result: Result) -> None:
        """Keep the result of a part, and write the page."""
        self._results[result.name] = result
        write_results(self._out / "results.json", self._results.values())
        self._write_page()
        if result.state != "running":
            print(f"{result.name}: {result.state}, {result.seconds:.0f} s. {result.cause}".rstrip(), flush=True)

    @property
    def _found(self) -> Path:
        """File of the tables of the part that runs."""
        return self._out / "running.json"

    @property
    def _log(self) -> Path:
        """File of what the parts print."""
        return self._out / "log.txt"

    def _write_page(self) -> None:
        is_gpu = not self._asked.device.startswith("cpu")
        facts = [
            f"begun {self._started:%Y-%m-%d %H:%M} UTC, at most {self._asked.limit:.0f} s",
            f"device {self._asked.device}, decode {self._decode}, packages "
            + ("as installed" if not os.environ.get(PACK) else f"of the folder in {PACK}"),
        ]
        facts += ["tiny: these figures say nothing about speed"] if self._asked.tiny else []
        heading = "One sitting on a GPU" if is_gpu else "A rehearsal of the sitting, without a GPU"
        replace_text(self.page, markdown(heading, facts, self.results))


def variables_with(packages: Path | None) -> dict[str, str]:
    """The variables of a part's process: it finds this checkout, its tests' support, and the packages."""
    return environment_with(packages, HERE.parent, ROOT, ROOT / "cli", ROOT / "tests")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, build = [part.name for part in PARTS], ROOT / "build"
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal")
    parser.add_argument("--tiny", action="store_true", help="small images, few of them, and small networks")
    parser.add_argument(
        "--limit", type=float, metavar="SECONDS", help=f"time of the whole sitting; default {_LIMIT:.0f} on a GPU"
    )
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--resume", action="store_true", help="keep what lies in --out; run what is not done")
    parser.add_argument("--out", type=Path, default=build / "gpu-sitting", help="folder of the page and the log")
    parser.add_argument(
        "--packages", type=Path, default=build / "gpu-packages", help="folder that packs are unpacked to"
    )
    parser.add_argument(
        "--patience",
        type=float,
        metavar="X",
        help=f"each part's limit is X times as long; default 1, and {_PATIENCE_ON_CPU:.0f} on a CPU",
    )
    asked = parser.parse_args(arguments)
    patience = _PATIENCE_ON_CPU if asked.device.startswith("cpu") else 1.0
    asked.limit = _LIMIT * patience if asked.limit is None else asked.limit
    asked.patience = patience if asked.patience is None else asked.patience
    asked.out, asked.packages = asked.out.resolve(), asked.packages.resolve()
    return asked


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raise Stopped where SIGTERM, SIGINT or SIGHUP comes."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:  # the page is written in peace
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(f"{signal.Signals(number).name} ended the sitting")

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main() -> int:
    sitting = Sitting(parsed(sys.argv[1:]))
    with stopping():
        holds = sitting.run()
    print(sitting.page.read_text(encoding="utf-8"))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
