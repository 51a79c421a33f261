"""Test processes share the cores, unless the user says how many threads each of them has."""

import os
from multiprocessing.connection import Connection

import pytest
import torch

from support.forked import CONTEXT
from support.thread_share import share_threads

#: What moves the last bits of what PyTorch computes.
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "KDCACHE_THREADS")


def threads(environment: dict[str, str], cores: int) -> tuple[str, str]:
    share_threads(environment, cores)
    return environment["OMP_NUM_THREADS"], environment["KDCACHE_THREADS"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("8", "8")),
        ({"OMP_NUM_THREADS": "1"}, ("1", "1")),
        ({"KDCACHE_THREADS": "3"}, ("3", "3")),
        ({"OMP_NUM_THREADS": "1", "KDCACHE_THREADS": "2"}, ("1", "2")),
        ({"OMP_NUM_THREADS": "4,2"}, ("4,2", "8")),
    ],
)
def test_what_the_user_sets_stands(given: dict[str, str], expected: tuple[str, str]) -> None:
    environment = dict(given)
    assert threads(environment, 8) == expected
    worker = environment | {"PYTEST_XDIST_WORKER_COUNT": "4"}
    assert {name: worker[name] for name in given} == given, "a worker inherits it"


def test_workers_share_what_the_main_process_had_for_itself() -> None:
    main: dict[str, str] = {}
    assert threads(main, 8) == ("8", "8")
    for workers, share in (("4", "2"), ("16", "1")):
        worker = main | {"PYTEST_XDIST_WORKER_COUNT": workers}
        assert threads(worker, 8) == (share, share)
        assert threads(dict(worker), 8) == (share, share), "and what a worker starts"


def test_a_worker_takes_the_number_that_the_user_gave_the_main_process() -> None:
    main = {"OMP_NUM_THREADS": "1"}
    share_threads(main, 8)
    assert threads(main | {"PYTEST_XDIST_WORKER_COUNT": "2"}, 8) == ("1", "1")


def test_processes_that_tests_start_compute_as_this_one_does() -> None:
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_send_arithmetic, args=(there,))
    process.start()
    assert here.poll(120)
    assert here.recv() == _arithmetic()
    process.join()


def _arithmetic() -> tuple[str, dict[str, str | None]]:
    return torch.backends.cpu.get_cpu_capability(), {name: os.environ.get(name) for name in VARIABLES}


def _send_arithmetic(there: Connection) -> None:
    there.send(_arithmetic())
