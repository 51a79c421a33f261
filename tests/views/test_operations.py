"""An operation is a row of the table and two kernels, and whatever is left out of it fails at import."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.views.operations import Operation
from kdcache.views.pixels.kernels import blur, colours, tables, warp
from kdcache.views.pixels.kernels.registry import bind_kernels

ROOT = Path(__file__).resolve().parents[2]
TABLE, KERNELS = Path("views/operations.py"), Path("views/pixels/kernels/tables.py")

# A made-up operation, added as CONTRIBUTING.md tells: values below the argument become the argument.
ROW = """
    FLOOR = OperationSpec(
        code=255,
        is_warp=False,
        argument_range=(0.0, 255.0),
        levels={"Floor": Levels(span=200.0, whole=True, most=255.0)},
        describe="values from {:.0f}".format,
        samples=(0.0, 1.0, 77.0, 200.0, 255.0),
    )
"""
FUNCTIONS = """
def _floor(least: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 256"]:
    return np.maximum(_VALUES, _whole(least)).astype(np.uint8)


def _floor_image(image: Image.Image, least: float) -> Image.Image:
    return image.point(lambda value: max(value, int(least)))


"""
BINDING = '    "FLOOR": Kernels(pillow=_floor_image, batched=FixedTable(_floor)),\n'

USE = """
import numpy as np
import torch
from kdcache.views.plan import describe_changes
from kdcache.views.operations import LEVELS, Operation
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.kernels import batched
from kdcache.views.policy import Policy
from kdcache.views.schemes.scheme import Scheme, Step, draw_scheme
from support.kernel_checks import CHECKS, check_operation
from support.photographs import FILL, photographs, plan_of_operations

pixels = photographs(24, 2)
plan = plan_of_operations(2, Operation.FLOOR, 77.0)
with Augmenter(Policy(), 1) as augmenter:
    assert torch.equal(augmenter.apply(pixels, plan), pixels.clamp(min=77))
assert torch.equal(batched.operate(pixels, plan, FILL), pixels.clamp(min=77))
assert describe_changes(plan, 0) == ("values from 77",)
scheme = Scheme((Step(*LEVELS["Floor"], prob=1.0, level=5.0),), layers=1)
op, argument, _ = draw_scheme(scheme, "bilinear", 0, 0, np.arange(3, dtype=np.uint64))
assert (op == Operation.FLOOR).all() and (argument == 100).all()
# The tests of the kernels try the samples of the new row without a change of theirs.
assert "floor-96" in CHECKS
check_operation(torch.device("cpu"), Operation.FLOOR, False, 24, 2)
"""
#: Imports kdcache from each folder in turn, in one process: libraries such as torch are imported once.
PROGRAM = """
import json, sys, traceback
sys.path.insert(0, "")
for line in sys.stdin:
    folder, code = json.loads(line)
    for name in [name for name in sys.modules if name.split(".")[0] in ("kdcache", "support")]:
        del sys.modules[name]
    sys.path[0] = folder
    try:
        exec(code, {})
    except Exception:
        print(json.dumps(traceback.format_exc()))
    else:
        assert sys.modules["kdcache"].__file__.startswith(folder)
        print(json.dumps(""))
"""


def test_adding_an_operation_touches_two_files_and_what_is_left_out_fails_at_import(tmp_path: Path) -> None:
    without_describe = ROW.replace('        describe="values from {:.0f}".format,\n', "")
    without_end = ROW.replace("(0.0, 1.0, 77.0, 200.0, 255.0)", "(1.0, 77.0)")
    without_batched = BINDING.replace(", batched=FixedTable(_floor)", "")
    cases = [
        (ROW, BINDING, ()),
        (ROW, "", ("There are no kernels for the operation FLOOR",)),
        ("", BINDING, ("There are kernels for an operation FLOOR, but", "has no row for it")),
        (without_describe, BINDING, ("FLOOR = OperationSpec(", "'describe'")),
        (without_end, BINDING, ("The samples of operation FLOOR are (1.0, 77.0)", "include each end")),
        (ROW, without_batched, ("FLOOR", "'batched'")),
        (ROW.replace("code=255", "code=17"), BINDING, ("duplicate values found", "FLOOR -> HUE")),
    ]
    asked = []
    for number, (row, binding, _) in enumerate(cases):
        package = tmp_path / str(number) / "kdcache"
        shutil.copytree(ROOT / "kdcache", package, ignore=shutil.ignore_patterns("__pycache__"))
        insert(package / TABLE, row, before="\n\ndef _levels_by_name(")
        insert(package / KERNELS, FUNCTIONS, before="#: Kernels by the name of their operation.")
        insert(package / KERNELS, binding, before="}\n", last=True)
        asked.append([str(package.parent), USE if number == 0 else "import kdcache.views.pixels.augment"])
    assert changed_files(tmp_path / "0" / "kdcache") == {TABLE, KERNELS}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="\n".join(map(json.dumps, asked)),
        env={"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (_, _, wanted), line in zip(cases, done.stdout.splitlines(), strict=True):
        trace = json.loads(line)
        assert bool(trace) == bool(wanted), trace
        assert all(part in trace for part in wanted), trace


def insert(path: Path, text: str, *, before: str, last: bool = False) -> None:
    """Insert a text into a file before another one, which occurs once or whose last occurrence is meant."""
    whole = path.read_text(encoding="utf-8")
    assert before in whole
    assert last or whole.count(before) == 1
    head, _, tail = whole.rpartition(before)
    path.write_text(head + text + before + tail, encoding="utf-8")


def changed_files(package: Path) -> set[Path]:
    original = ROOT / "kdcache"
    files = {path.relative_to(original) for path in original.rglob("*.py")}
    assert files == {path.relative_to(package) for path in package.rglob("*.py")}
    return {path for path in files if (original / path).read_bytes() != (package / path).read_bytes()}


def test_kernels_of_one_operation_stand_in_one_module() -> None:
    with pytest.raises(ValueError, match="kernels for the operation HUE in two modules"):
        bind_kernels(tables.KERNELS, warp.KERNELS, blur.KERNELS, colours.KERNELS, {"HUE": colours.KERNELS["HUE"]})


def test_a_warp_has_the_kernel_of_a_warp_and_no_other_operation_has_one() -> None:
    others = {name: kernels for name, kernels in warp.KERNELS.items() if name != "ROTATE"}
    with pytest.raises(ValueError, match="ROTATE has is_warp=True"):
        bind_kernels(tables.KERNELS, others, {"ROTATE": tables.KERNELS["INVERT"]})
    with pytest.raises(ValueError, match="INVERT has is_warp=False"):
        bind_kernels({"INVERT": warp.KERNELS["ROTATE"]})


def test_the_codes_of_the_format_are_these() -> None:
    """Caches hold views that were made under these numbers: none may ever change."""
    names = (
        *("IDENTITY", "AUTO_CONTRAST", "EQUALIZE", "INVERT", "ROTATE", "POSTERIZE", "SOLARIZE", "SOLARIZE_ADD"),
        *("COLOR", "CONTRAST", "BRIGHTNESS", "SHARPNESS", "SHEAR_X", "SHEAR_Y", "TRANSLATE_X", "TRANSLATE_Y"),
        *("GAUSSIAN_BLUR", "HUE"),
    )
    assert [(operation.name, int(operation)) for operation in Operation] == [*zip(names, range(18), strict=True)]
