"""Tests and other benchmarks that run as they are: the renderers' contract, Triton's kernels, two tables of speed."""

import contextlib
import io
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from gpu.page import Line, Table
from gpu.setting import Setting
from gpu.unpack import environment_with

ROOT = Path(__file__).resolve().parent.parent.parent.parent
CONTRACT = "tests/render/test_on_a_gpu.py"
#: Classes of the contract, the safest first: what crashes takes those after it along.
RENDERERS = ("TestPillow", "TestDaliDecodingOnTheCpu", "TestDaliDecodingOnTheGpu")


def contract(setting: Setting) -> Iterator[Table]:
    """The renderers' whole contract: order, last partial batch, broken images, rebuilding; class by class.

    Without a GPU its tests skip themselves, which shows that they can be collected.
    """
    title, header = f"The renderers' contract ({CONTRACT})", ("renderer", "tests that passed")
    lines: list[Line] = []
    for name in RENDERERS:
        lines += run_tests(f"{CONTRACT}::{name}", name, setting)
        yield Table(title, header, tuple(lines))


def triton(setting: Setting) -> Iterator[Table]:
    """The contract of Triton's kernels, on the GPU compiled and on the CPU by Triton's interpreter."""
    title, header = "Triton's kernels", ("tests", "that passed")
    files = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*triton*.py"))
    if not files:
        yield Table(title, header, (Line(("none", "left out: there are no tests of Triton kernels here")),))
        return
    lines: list[Line] = []
    for file in files:
        lines += run_tests(file, file, setting)
        yield Table(title, header, tuple(lines))


def run_tests(tests: str, name: str, setting: Setting) -> list[Line]:
    """Run tests by pytest: a line for all, and one for each that failed.

    In a process of its own: the tests' shapes can be checked only where kdcache has not been imported before.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
        command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", str(ROOT / tests)]
        folders = (ROOT, ROOT / "cli", ROOT / "tests")
        # Plugins that the machine happens to have may not fit the version of pytest that was packed.
        variables = environment_with(None, *folders) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        code = subprocess.run(command, env=variables, cwd=ROOT, check=False).returncode
        if not report.exists():
            return [Line((name, f"pytest ended with {code}"), False)]
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    found = f"{passed} of {len(cases)}" + (f", {skipped} were skipped" if skipped else "")
    if not setting.on_gpu and cases and skipped == len(cases):
        return [Line((name, found))]
    # What is skipped on a GPU has not been proved there.
    all_pass = passed == len(cases) if setting.on_gpu else not failed
    return [
        Line((name, found), all_pass and passed > 0),
        *(Line((f"`{case.get('name')}`", "failed"), False) for case in failed),
    ]


def dump_table(setting: Setting) -> Iterator[Table]:
    """`benchmarks/dump.py`: images a second of a dump beside the bare teacher's."""
    yield script("dump.py", "dump-logits beside the bare teacher", setting, "--size", "224", "--runs", "2")


def step_table(setting: Setting) -> Iterator[Table]:
    """`benchmarks/step.py`: a step supervised, from the cache and with a live teacher."""
    yield script("step.py", "A step supervised, from the cache, and with a live teacher", setting)


def script(name: str, title: str, setting: Setting, *arguments: str) -> Table:
    """What a benchmark prints; `arguments` are left out of a rehearsal."""
    file = ROOT / "benchmarks" / name
    if not file.exists():
        return Table(title, ("script", "result"), (Line((name, "left out: it is not in this checkout")),))
    words = [name, "--device", str(setting.device), *(("--tiny",) if setting.is_tiny else arguments)]
    out, code = io.StringIO(), 0
    before = sys.argv
    sys.argv = words
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(str(file), run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
        print(out.getvalue())
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}")
    return Table(title, text=out.getvalue())
