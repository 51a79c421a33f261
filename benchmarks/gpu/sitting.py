"""Every check that needs a GPU, in the order of what it proves, in one sitting of at most `--limit` seconds.

    KDCACHE_GPU_PACK=FOLDER python benchmarks/gpu/sitting.py [--limit SECONDS] [--only PART ...] [--resume]
    python benchmarks/gpu/sitting.py --device cpu --tiny    # a rehearsal without a GPU

It needs PyTorch, torchvision and timm. What else kdcache needs is found in the folder that the variable names: unpacked
wheels, or the parts that `pack.py` has written, which are unpacked first. Each part runs in a process of its own under
its own time limit. The page is written anew whenever a part begins or ends, so that there is one whatever happens: a
part that fails, crashes or takes too long leaves what it had found, and SIGTERM ends the sitting with its page. Exits
with 1 when something does not hold, has failed or has not run. docs/gpu.md says what each part proves.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from gpu.page import Result, markdown, read_result, replace_text, tables_of, write_result
from gpu.unpack import PackError, environment_with, packages_folder

#: Variable that names the folder of packages.
PACK = "KDCACHE_GPU_PACK"
#: Name on the page of what fails before the first part: the packages cannot be unpacked.
_PACKAGES = "packages"
#: Seconds that are left at the end for the page.
_RESERVE = 3.0
#: Seconds that a process gets between SIGTERM and SIGKILL.
_GRACE = 2.0
#: The end of a process's output that stands on the page where it failed.
_TAIL = 600


@dataclass(frozen=True)
class Part:
    """A part of the sitting.

    Attributes:
        name: name of the part; its function is `parts` of `gpu.part`.
        limit: seconds that it may take.
        variables: variables of its process.
        decode: what `--decode` says in this part and, if this holds, in those after it; None leaves it.
        only_after: name of a part that must have failed; this one is left out otherwise.
    """

    name: str
    limit: float
    variables: Mapping[str, str] | None = None
    decode: str | None = None
    only_after: str | None = None


#: In the order of what they prove: a later part means little where an earlier one fails.
PARTS = (
    Part("versions", 45),
    Part("image", 45),
    Part("image without virtual memory", 45, {"DALI_USE_VMM": "0"}, None, "image"),
    Part("image decoded on the cpu", 45, None, "cpu", "image without virtual memory"),
    Part("contract", 100),
    Part("kernels", 100),
    Part("triton", 60),
    Part("decoding", 60),
    Part("jobs", 150),
    Part("waiting", 60),
    Part("busy", 60),
    Part("speed", 100),
    Part("dump table", 90),
    Part("step table", 120),
    Part("fp16", 45),
    Part("nccl", 45),
    Part("memory", 60),
)


class Stopped(BaseException):
    """A signal asked the sitting to end."""


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit code, None where it ran out of time, and the end of what it printed."""

    code: int | None
    tail: str

    def describe(self, limit: float) -> str:
        """Why the process failed, in one line."""
        if self.code is None:
            return f"it did not end within {limit:.0f} s"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                return f"it was ended by {signal.Signals(-self.code).name}. {self._last}"
        return f"it ended with {self.code}. {self._last}"

    @property
    def _last(self) -> str:
        return " ".join(self.tail.replace("|", "/").split())[-_TAIL:]


def run_process(command: Sequence[str], variables: Mapping[str, str], limit: float, log: Path) -> Ending:
    """Run a command for at most `limit` seconds, in a group of processes of its own, all of which end with it."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=dict(variables), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        code: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            _end_group(process)
    return Ending(code, log.read_text(encoding="utf-8", errors="replace")[-4 * _TAIL :])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started; one that cannot even be killed is left behind."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if number == signal.SIGKILL:
                return


class Sitting:
    """The parts that were asked for, what they have found, and the page of it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._end = time.monotonic() + asked.limit
        self._started = datetime.datetime.now(datetime.UTC)
        self._variables = environment_with(None, HERE.parent, ROOT, ROOT / "cli", ROOT / "tests")
        self._decode = "auto"
        self._results: dict[str, Result] = {}
        for folder in ("results", "logs"):
            (asked.out / folder).mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            kept = read_result(self._file(part)) if asked.resume else None
            self._results[part.name] = kept or Result(part.name, "not run")

    @property
    def page(self) -> Path:
        """File of the page."""
        return Path(self._asked.out) / "page.md"

    @property
    def results(self) -> list[Result]:
        """The parts, without those that stand in for another that holds."""
        counting = {part.name for part in PARTS if self._counts(part)} | {_PACKAGES}
        return [result for name, result in self._results.items() if name in counting]

    def run(self) -> bool:
        """Run the parts; return whether everything holds. The page is there in any case."""
        try:
            self._bring_packages()
            for part in PARTS:
                if self._is_due(part):
                    self._run(part)
                self._go_on_after(part)
        except PackError as error:
            self._results = {_PACKAGES: Result(_PACKAGES, "failed", cause=str(error))} | self._results
        except Stopped as stop:
            self._results = {
                name: replace(result, state="stopped", cause=str(stop)) if result.state == "running" else result
                for name, result in self._results.items()
            }
        self._write_page()
        return all(result.holds for result in self.results)

    def _bring_packages(self) -> None:
        given = os.environ.get(PACK)
        if given:
            self._write_page()
            packages = packages_folder(Path(given), Path(self._asked.out) / "packages")
            self._variables = environment_with(packages, HERE.parent, ROOT, ROOT / "cli", ROOT / "tests")

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
        if part.only_after is not None and result.state == "done" and result.holds:
            self._variables |= dict(part.variables or {})
            self._decode = part.decode or self._decode

    def _run(self, part: Part) -> None:
        limit = min(part.limit * self._asked.patience, self._end - _RESERVE - time.monotonic())
        if limit <= 0:
            return self._note(Result(part.name, "not run", cause="the time of the sitting had ended"))
        self._note(Result(part.name, "running"))
        found, log = (Path(self._asked.out) / "results" / f"{part.name}.tables.json", self._log(part))
        found.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / "part.py"), part.name, "--tables", str(found)]
        command += ["--device", self._asked.device, "--decode", part.decode or self._decode]
        command += ["--tiny"] if self._asked.tiny else []
        start = time.monotonic()
        variables = {**self._variables, **(part.variables or {})}
        result = Result(part.name, "running")
        try:
            ending = run_process(command, variables, limit, log)
            if ending.code == 0:
                result = replace(result, state="done")
            else:
                state = "out of time" if ending.code is None else "failed"
                result = replace(result, state=state, cause=ending.describe(limit))  # type: ignore[arg-type]
        except OSError as error:
            result = replace(result, state="failed", cause=f"no process can be started: {error}")
        finally:
            with contextlib.suppress(OSError, ValueError):
                result = replace(result, tables=tables_of(json.loads(found.read_text(encoding="utf-8"))))
            self._note(replace(result, seconds=time.monotonic() - start))

    def _note(self, result: Result) -> None:
        self._results[result.name] = result
        write_result(self._file(result), result)
        self._write_page()
        print(f"{result.name}: {result.state}, {result.seconds:.0f} s. {result.cause}".rstrip(), flush=True)

    def _file(self, part: Part | Result) -> Path:
        return Path(self._asked.out) / "results" / f"{part.name}.json"

    def _log(self, part: Part) -> Path:
        return Path(self._asked.out) / "logs" / f"{part.name}.txt"

    def _write_page(self) -> None:
        is_gpu = not self._asked.device.startswith("cpu")
        facts = [
            f"begun {self._started:%Y-%m-%d %H:%M} UTC, at most {self._asked.limit:.0f} s",
            f"device {self._asked.device}, decode {self._decode}, packages {os.environ.get(PACK) or 'as installed'}",
        ]
        facts += ["tiny: these figures say nothing about speed"] if self._asked.tiny else []
        heading = "One sitting on a GPU" if is_gpu else "A rehearsal of the sitting, without a GPU"
        replace_text(self.page, markdown(heading, facts, self.results))


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal")
    parser.add_argument("--tiny", action="store_true", help="small images, few of them, and small networks")
    parser.add_argument("--limit", type=float, default=720, metavar="SECONDS", help="time of the whole sitting")
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--resume", action="store_true", help="keep what lies in --out; run what is not done")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-sitting", help="folder of page.md and logs")
    parser.add_argument("--patience", type=float, default=1, metavar="X", help="each part's limit is X times as long")
    asked = parser.parse_args(arguments)
    asked.out = asked.out.resolve()
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
