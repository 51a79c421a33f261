"""A GPU that is there and cannot be used is a fault; a machine without one is well."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcache.doctor import machine
from kdcache.doctor.child import Outcome
from kdcache.doctor.findings import Finding
from kdcache.doctor.machine import (
    Seen,
    granted_cores,
    judge_driver,
    judge_gpus,
    judge_threads,
    look_at_shared_memory,
    usable,
)


def computed(**changes: Any) -> dict[str, Any]:
    return {"torch": "2.12.1", "cuda": "13.0", "available": False, "warning": None, "threads": 8} | changes


@pytest.mark.parametrize(
    ("seen", "torch", "state", "text", "remedy"),
    [
        (Seen(0, None), {}, "ok", "models run on the CPU", ""),
        (Seen(0, None), {"cuda": None}, "ok", "models run on the CPU", ""),
        (Seen(1, "580.65.06"), {"available": True}, "ok", "580.65.06; PyTorch 2.12.1 for CUDA 13.0 works", ""),
        (Seen(1, None), {"available": True}, "ok", "unknown version", ""),
        (Seen(1, "550.54"), {"available": True}, "ok", "asks for 580 and works all the same", ""),
        (Seen(0, "580.65.06"), {}, "note", "no GPU is given to this container", "--gpus all"),
        (Seen(2, "580.65.06", "CUDA_VISIBLE_DEVICES="), {}, "note", "hides the GPUs", "Unset it"),
        (Seen(1, "580.65.06"), {"cuda": None}, "note", "a build for the CPU", "for CUDA"),
        (Seen(1, None), {}, "fault", "no driver", "Install NVIDIA's driver 580"),
        (Seen(1, "579.99"), {}, "fault", "579.99 is too old", "Update NVIDIA's driver to 580"),
        (Seen(1, "525.60.13"), {"cuda": "12.6", "warning": "busy"}, "fault", "finds no GPU: busy", "nvidia-smi"),
        (Seen(1, "590.1"), {}, "fault", "finds no GPU: it gives no reason", "nvidia-smi"),
    ],
)
def test_the_driver(seen: Seen, torch: dict[str, Any], state: str, text: str, remedy: str) -> None:
    finding = judge_driver(seen, computed(**torch))
    assert finding.state == state
    assert text in finding.text
    assert (finding.remedy is None) == (state == "ok")
    assert remedy in (finding.remedy or "")


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:06:40 UTC 2025\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@b)\nGCC version: 12",
    ],
)
def test_the_driver_tells_its_version(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: line)
    assert machine.look_for_gpus(limit=5.0).driver == "580.65.06"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ((0, "580.65.06\n580.65.06\n", ""), "580.65.06"),
        ((0, "[N/A]\n", ""), None),
        ((0, "No devices were found\n", ""), None),
        ((None, "", ""), None),
        ((9, "", ""), None),
    ],
)
def test_nvidia_smi_is_asked_for_a_driver_that_is_not_plain_to_see(
    text: tuple[int | None, str, str], version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", unseen)
    monkeypatch.setattr(machine, "run", lambda command, limit: text)
    assert machine.look_for_gpus(limit=5.0).driver == version


@pytest.mark.parametrize(("chosen", "hidden"), [("", True), ("-1", True), ("0", False), ("1,0", False)])
def test_gpus_may_be_hidden_by_the_environment(chosen: str, hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert (machine.look_for_gpus(limit=5.0).hidden is not None) == hidden


def gpu(state: str = "right", cause: str = "") -> dict[str, Any]:
    return {"name": "NVIDIA H200", "memory": 140 * 2**30, "state": state, "cause": cause}


@pytest.mark.parametrize(
    ("outcome", "state", "text", "remedy", "fit"),
    [
        (Outcome({"gpus": [gpu()]}), "ok", "NVIDIA H200 (140 GiB); it computes right", "", 1),
        (Outcome({"gpus": [gpu(), gpu()]}), "ok", "each computes what the CPU does", "", 2),
        (Outcome({"gpus": [gpu(), gpu("full")]}), "note", "the memory of cuda:1 is full", "Wait", 2),
        (Outcome(failure="it crashed (SIGBUS)"), "fault", "cannot compute on it: it crashed (SIGBUS).", "dmesg", 0),
        (Outcome({"gpus": [gpu("old", "it has 6.1")]}), "fault", "cuda:0: it has 6.1.", "for an older CUDA", 0),
        (Outcome({"gpus": [gpu("broken", "no ECC"), gpu()]}), "fault", "cuda:0: no ECC", "CUDA_VISIBLE_DEVICES=1 ", 0),
        (Outcome({"gpus": [gpu(), gpu("broken", "no ECC"), gpu()]}), "note", "cuda:1: no", "VISIBLE_DEVICES=0,2 ", 2),
        (Outcome({"gpus": [gpu("broken", "no ECC")]}), "fault", "no ECC", "CUDA_VISIBLE_DEVICES= leaves it out", 0),
    ],
)
def test_gpus_are_judged_by_what_they_compute(outcome: Outcome, state: str, text: str, remedy: str, fit: int) -> None:
    finding = judge_gpus(outcome)
    assert finding.state == state
    assert text in finding.text
    assert (finding.remedy is None) == (state == "ok")
    assert remedy in (finding.remedy or "")
    assert usable(outcome) == fit


@pytest.mark.parametrize(
    ("threads", "quota", "state", "remedy"),
    [
        (8, None, "ok", None),
        (8, 8.0, "ok", None),
        (8, 2.5, "note", "Set KDCACHE_THREADS=2."),
        (8, 0.5, "note", "Set KDCACHE_THREADS=1."),
        (1, 0.5, "ok", None),
        ("$KDCACHE_THREADS is 'x'.", None, "fault", "Unset KDCACHE_THREADS to use all cores."),
    ],
)
def test_threads_are_held_against_the_time_that_is_granted(
    threads: int | str, quota: float | None, state: str, remedy: str | None
) -> None:
    finding = judge_threads(computed(threads=threads), quota)
    assert (finding.state, finding.remedy) == (state, remedy)


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("250000 100000\n", 2.5), ("nonsense", None), (None, None)]
)
def test_a_control_group_says_how_many_cores_it_grants(text: str | None, cores: float | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert granted_cores(tmp_path) == cores


def shared_memory(gpus: int, place: Path) -> Finding:
    (finding,) = look_at_shared_memory(gpus, str(place))
    return finding


def test_shared_memory_has_to_be_there_and_large_for_several_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = shared_memory(0, tmp_path / "gone")
    assert missing.state == "note"
    assert "No such file" in missing.text
    assert shared_memory(8, tmp_path).state == "ok"
    # What is free counts, not how large it is: other processes have their share.
    monkeypatch.setattr(machine.os, "statvfs", lambda path: SimpleNamespace(f_blocks=2**30, f_bavail=16, f_frsize=4096))
    assert shared_memory(1, tmp_path).state == "ok"
    small = shared_memory(2, tmp_path)
    assert small.state == "note"
    assert "--shm-size" in (small.remedy or "")
