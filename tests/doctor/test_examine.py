"""The whole command, on this machine as it is and with a DALI that crashes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdcache.doctor import examine, places
from kdcache.doctor.child import Outcome
from kdcache.doctor.examine import judge_decoding
from kdcache.doctor.findings import Finding
from support.command_line import kdcache
from support.shards import make_shards


def test_this_machine_is_well(tmp_path: Path) -> None:
    data = make_shards(tmp_path / "data", images=4)
    unusable = {} if torch.cuda.is_available() else {"CUDA_VISIBLE_DEVICES": ""}
    done = kdcache("doctor", "--json", "--data", data, "--cache", tmp_path / "cache", cwd=tmp_path, **unusable)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["able"] is True
    states = {finding["subject"]: finding["state"] for finding in found["findings"]}
    for subject in ("versions", "PyTorch", "DALI on the CPU", "data", "cache"):
        assert states[subject] == "ok", done.stdout
    assert {
        "packages",
        "threads",
        "driver",
        "shared memory",
        "account",
        "cache's disk",
        "runs",
        "weights",
    } <= states.keys()
    assert states["index"] == "ok"
    assert ("DALI on the GPU" in states) == ("GPU" in states) == torch.cuda.is_available()


def test_a_dali_that_crashes_is_a_fault_with_a_remedy_and_takes_nothing_along(tmp_path: Path) -> None:
    (tmp_path / "nvidia" / "dali").mkdir(parents=True)
    (tmp_path / "nvidia" / "__init__.py").touch()
    (tmp_path / "nvidia" / "dali" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    done = kdcache("doctor", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("fault"))
    assert "It cannot decode a JPEG: it crashed (SIGSEGV)." in lines[place]
    assert "--renderer pillow" in lines[place + 1]
    assert any(line.split()[:2] == ["ok", "cache"] for line in lines[place:]), "what comes after it is looked at, too"
    assert lines[-1] == "kdcache cannot run here: DALI on the CPU."
    assert "Traceback" not in done.stderr


def test_the_doctor_itself_loads_nothing_that_may_crash() -> None:
    program = """
import sys
from kdcache.doctor import examine
examine.attempt = lambda *arguments, limit: examine.Outcome(failure="not tried")
from kdcache.doctor import places
places.attempt = examine.attempt
print(*[finding.state for finding in examine.examine("data", "cache")])
print(*[name for name in ("torch", "nvidia.dali", "zarr", "numpy", "timm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    states, loaded = done.stdout.splitlines()
    assert not loaded
    assert states.split().count("fault") == 7, "PyTorch, DALI, account, data, cache, runs and weights"


def test_a_surprise_hides_nothing_that_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprised(limit: float) -> None:
        raise KeyError("gpus")

    monkeypatch.setattr(examine, "attempt", lambda *arguments, limit: Outcome(failure="not tried"))
    monkeypatch.setattr(places, "attempt", examine.attempt)
    monkeypatch.setattr(examine, "look_at_shared_memory", lambda gpus: (surprised(gpus) for _ in range(1)))
    findings = list(examine.examine("data", "cache"))
    (found,) = (finding for finding in findings if finding.subject == "shared memory")
    assert (found.state, "KeyError" in found.text) == ("note", True)
    assert findings[-1].subject == "weights"


@pytest.mark.parametrize(
    ("outcome", "state", "text"),
    [
        (Outcome({"full": False, "version": "dali 2.4.0 gpu", "difference": 0.2}), "ok", "2.4.0 decodes a JPEG"),
        (Outcome({"full": False, "version": "dali 2.4.0 gpu", "difference": 9.0}), "fault", "9.0 of 255 levels"),
        (Outcome({"full": True}), "note", "memory is full"),
        (Outcome(failure="nvJPEG is not there."), "fault", "cannot decode a JPEG: nvJPEG is not there."),
        (Outcome(failure="It is not there. Use --decode cpu.", ending="refusal"), "fault", "It is not there. Use --d"),
    ],
)
def test_decoding_is_judged_by_its_pixels(outcome: Outcome, state: str, text: str) -> None:
    finding: Finding = judge_decoding("gpu", outcome)
    assert finding.state == state
    assert text in finding.text
    assert state != "fault" or "--decode cpu" in f"{finding.text} {finding.remedy}"
