"""The benchmark of launches and bytes counts what a batch takes, without computing it."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which PyTorch's builds for CUDA bring along")

LIMITS = {"a2": 1.5e9, "b": 3e9}
LAUNCHES = 40


@pytest.fixture(scope="module")
def counts(project_root: Path):
    spec = importlib.util.spec_from_file_location("counts", project_root / "benchmarks" / "counts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LIMITS)
def test_a_batch_of_256_takes_few_launches_and_bytes_by_triton(counts, name):
    policy = counts.NAMED[name]
    plan = counts.plan_of(policy, 256)
    by_triton = counts.count_of(policy, plan, 224, triton=True)
    assert 0 < by_triton.launches <= LAUNCHES
    # At least: every byte rendered is read once, and every value of the result written once.
    assert 256 * 3 * 224 * 224 * 5 <= by_triton.bytes <= LIMITS[name]
    by_torch = counts.count_of(policy, plan, 224, triton=False)
    assert by_torch.launches > 5 * by_triton.launches
    assert by_torch.bytes > 10 * by_triton.bytes


def test_a_call_counts_what_it_reads_and_writes_and_a_view_nothing(counts):
    count = counts.Count()
    a = torch.empty(10, 4, device="meta")
    places = torch.empty(3, dtype=torch.int64, device="meta")
    with counts.CountedCalls(count):
        b = a + a[:, :1].expand(10, 4)
        assert (count.launches, count.bytes) == (1, 160 + 40 + 160)
        b.view(-1)[5:]
        assert count.launches == 1
        b.index_select(0, places)
        assert (count.launches, count.bytes) == (2, 360 + 2 * 48 + 24)
