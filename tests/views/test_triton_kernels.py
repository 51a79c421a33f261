"""Triton's kernels make the pixels of torch's, in Triton's interpreter and on a GPU, and compile without one."""

import json
import math
import os
import re
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.views.operations import Operation
from kdcache.views.pixels.fused.launch import runs_on
from kdcache.views.pixels.fused.steps import buffers_needed, steps_of
from kdcache.views.pixels.noise import _ATANH_TERMS, _COS_TERMS, _SIN_TERMS
from support.photographs import plan_with

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
TESTS = Path(__file__).resolve().parent.parent
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def output_of(program: str, **environment: str) -> dict[str, str]:
    """What a program of tests/support prints, in a process of its own: Triton reads its settings at import."""
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", f"support.{program}"]
    settings = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_in_the_interpreter_every_value_is_that_of_torchs_kernels():
    results = output_of("triton_checks", TRITON_INTERPRET="1")
    assert len(results) > 30
    assert {name: cause for name, cause in results.items() if cause} == {}


def test_each_kernel_compiles_for_a_gpu_and_rounds_after_each_operation(tmp_path):
    """Neither a fused multiply-add nor an approximate division or root: they differ in the last bit."""
    ptx = output_of("triton_compiled", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    for name, text in ptx.items():
        assert ".target sm_90" in text
        floating = set(re.findall(r"\b(?:fma|mad|mul|add|sub|div|sqrt|rcp)\.\S*f(?:32|64)\b", text))
        assert {each for each in floating if ".rn." not in each or each.startswith(("fma", "mad", "rcp"))} == set(), (
            name
        )
    assert "div.rn.f64" in ptx["measure"]
    assert "cvt.rn.bf16.f32" in ptx["mix"] or "cvt.rn.bf16x2.f32" in ptx["mix"]
    assert {"sqrt.rn.f64", "div.rn.f64"} <= set(re.findall(r"(?:sqrt|div)\.rn\.f64", ptx["erase"]))
    assert {"div.rn.f32", "div.rn.f64"} <= set(re.findall(r"div\.rn\.f\d\d", ptx["hue"]))

    doubles = [math.log(2.0), math.sqrt(0.5), 2.0 * math.pi * 2.0**-32]
    doubles += [
        coefficient for terms in (_ATANH_TERMS, _COS_TERMS, _SIN_TERMS) for coefficient in terms if coefficient != 1
    ]
    missing = [number for number in doubles if f"0d{struct.pack('>d', number).hex().upper()}" not in ptx["erase"]]
    assert missing == [], "these numbers were rounded to single precision, or are others than torch's kernels have"


@on_a_gpu
def test_on_a_gpu_every_value_is_that_of_torchs_kernels():
    from support.triton_checks import CHECKS, result_of

    device = torch.device("cuda", torch.cuda.current_device())
    assert runs_on(device)
    results = {name: result_of(check, device) for name, check in CHECKS.items()}
    assert {name: cause for name, cause in results.items() if cause} == {}


@pytest.mark.parametrize("name", ["cpu", "meta"])
def test_other_devices_keep_torchs_kernels(name):
    assert not runs_on(torch.device(name))


def test_each_row_passes_through_its_operations_in_order_and_ends_in_the_first_buffer():
    op = np.random.default_rng(0).choice([0, 0, 1, 2, 3], (40, 5)).astype(np.uint8)
    plan = plan_with(40, op=op, magnitude=np.zeros(op.shape, np.float32))
    buffers = buffers_needed(plan)
    held: dict[int, list[int]] = {}
    for step in steps_of(plan):
        assert len({*step.target.tolist()}) == len(step.target)
        assert step.number == 0 or not {*step.source.tolist()} & {*step.target.tolist()}
        before = [[] if step.number == 0 else held[row] for row in step.source.tolist()]
        for row, earlier, code in zip(step.target.tolist(), before, step.op.tolist(), strict=True):
            assert row < buffers * 40
            held[row] = [*earlier, code] if code != Operation.IDENTITY else earlier
    assert [held[row] for row in range(40)] == [[code for code in codes if code] for codes in op.tolist()]


def test_rows_of_at_most_one_operation_need_one_buffer():
    op = np.array([[0, 3], [1, 0], [0, 0]], np.uint8)
    assert buffers_needed(plan_with(3, op=op, magnitude=np.zeros(op.shape, np.float32))) == 1
