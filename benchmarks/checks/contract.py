"""The renderers' whole contract on a GPU: order, last partial batch, broken images, rebuilding."""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from checks.report import Line, Setting, Table

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = "tests/render/test_on_a_gpu.py"


def contract(setting: Setting) -> Table:
    """One line for each class of the tests, and one for each test that failed."""
    title, header = f"The renderers' contract ({TESTS})", ("renderer", "tests that passed")
    if setting.device.type != "cuda":
        return Table(title, header, [Line(("all", "left out: they need a GPU"))])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", TESTS],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            return Table(title, header, [Line(("all", f"pytest ended with {run.returncode}"), False)])
        cases = list(ElementTree.parse(report).iter("testcase"))
    lines = []
    for name in sorted({case.get("classname", "") for case in cases}):
        of_class = [case for case in cases if case.get("classname") == name]
        failed = [case for case in of_class if case.find("failure") is not None or case.find("error") is not None]
        skipped = sum(case.find("skipped") is not None for case in of_class)
        passed = len(of_class) - len(failed) - skipped
        lines.append(
            Line((name.rpartition(".")[2], f"{passed} of {len(of_class)}"), passed == len(of_class) and passed > 0)
        )
        lines += [Line((f"`{case.get('name')}`", "failed"), False) for case in failed]
    return Table(title, header, lines or [Line(("all", "no test ran"), False)])
