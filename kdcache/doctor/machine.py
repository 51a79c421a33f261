"""The machine: its cores, shared memory, NVIDIA driver and GPUs."""

import contextlib
import glob
import os
import re
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.doctor.child import Outcome, run
from kdcache.doctor.findings import Finding, failed, fault, note, ok

GIB = 2**30
#: The oldest driver for each CUDA that PyTorch is built with.
OLDEST_DRIVER = {"12": 525, "13": 580}
#: What NCCL likes to have for the processes of a training on several GPUs.
SHARED_MEMORY = GIB

_BROKEN = "See nvidia-smi and the kernel's log (dmesg) for errors of the GPU; restart the machine if it hangs."
_OLD = "Install a build of PyTorch for an older CUDA, which still knows this GPU, or use another one."


@dataclass(frozen=True)
class Seen:
    """NVIDIA's driver and devices as this process sees them.

    Attributes:
        devices: number of device files of GPUs.
        driver: version of the driver; None if no driver is found.
        hidden: setting that hides all GPUs from this process; None if there is none.
    """

    devices: int
    driver: str | None
    hidden: str | None = None


def look_for_gpus(limit: float) -> Seen:
    """Find driver and devices without NVIDIA's libraries; nvidia-smi runs only if /proc does not show the driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return Seen(
        devices=len(glob.glob("/dev/nvidia[0-9]*"))
        or int(os.path.exists("/dev/dxg")),  # Windows' Linux shows the latter
        driver=_driver_version(limit),
        hidden=f"CUDA_VISIBLE_DEVICES={chosen}" if chosen in ("", "-1") else None,
    )


def _driver_version(limit: float) -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"NVRM version:.*?\s(\d{3,}(?:\.\d+)+)\s", Path("/proc/driver/nvidia/version").read_text())
        if found:
            return found[1]
    with contextlib.suppress(OSError):
        code, out, _ = run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], limit)
        found = re.match(r"\s*(\d{3,}(?:\.\d+)+)\s", out) if code == 0 else None  # "[N/A]", "No devices were found"
        if found:
            return found[1]
    return None


def judge_driver(seen: Seen, computed: dict[str, Any]) -> Finding:
    """Return the finding for the driver, from the result of the trial `compute`.

    A machine without a GPU is well, and so is one whose GPUs are hidden or whose PyTorch knows none, with a note: only
    a GPU that is there and cannot be used is a fault.
    """
    built_for = computed["cuda"]
    oldest = OLDEST_DRIVER.get(str(built_for).partition(".")[0], 0)
    too_old = seen.driver is not None and int(seen.driver.partition(".")[0]) < oldest
    version = f"PyTorch {computed['torch']} for CUDA {built_for}"
    if computed["available"]:
        if too_old:
            return ok("driver", f"{seen.driver}; {version} asks for {oldest} and works all the same")
        return ok("driver", f"{seen.driver or 'of unknown version'}; {version} works with it")
    if not seen.devices:
        if seen.driver is None:
            return ok("driver", "none, and no NVIDIA GPU: models run on the CPU")
        return note(
            "driver",
            f"{seen.driver}, but no GPU is given to this container or account: models run on the CPU.",
            "Start the container with --gpus all, or ask whoever runs the machine for the device files /dev/nvidia*.",
        )
    if seen.hidden is not None:
        return note("driver", f"{seen.hidden} hides the GPUs: models run on the CPU.", "Unset it to use them.")
    if built_for is None:
        return note(
            "driver",
            f"PyTorch {computed['torch']} is a build for the CPU, and there is a GPU: models run on the CPU.",
            "Install a build of PyTorch for CUDA to use it.",
        )
    if seen.driver is None:
        return fault(
            "driver", "There are device files of a GPU, but no driver.", f"Install NVIDIA's driver {oldest} or later."
        )
    if too_old:
        return fault(
            "driver",
            f"{seen.driver} is too old: {version} needs {oldest} or later.",
            f"Update NVIDIA's driver to {oldest} or later, or install a PyTorch for an older CUDA.",
        )
    why = computed["warning"] or "it gives no reason"
    return fault(
        "driver",
        f"{seen.driver} is there, but {version} finds no GPU: {why}",
        "Check whether nvidia-smi lists the GPU; after an update of the driver, restart the machine.",
    )


def judge_gpus(outcome: Outcome) -> Finding:
    """Return the finding for the trial `compute_on_gpus`.

    One that cannot compute is a fault where jobs would take it, which is the first; any other can be left out.
    """
    if outcome.failure is not None:
        return failed("GPU", "PyTorch cannot compute on it", outcome, _BROKEN)
    gpus = outcome.values["gpus"]
    names = ", ".join(f"{gpu['name']} ({gpu['memory'] / GIB:.0f} GiB)" for gpu in gpus)
    unfit = [number for number, gpu in enumerate(gpus) if gpu["state"] in ("old", "broken")]
    if unfit:
        causes = "; ".join(f"PyTorch cannot compute on cuda:{number}: {gpus[number]['cause']}" for number in unfit)
        remedies = [_OLD] if any(gpus[number]["state"] == "old" for number in unfit) else []
        remedies += [_BROKEN] if any(gpus[number]["state"] == "broken" for number in unfit) else []
        rest = ",".join(str(number) for number in range(len(gpus)) if number not in unfit)
        remedies.append(f"Until then CUDA_VISIBLE_DEVICES={rest} leaves {'it' if len(unfit) == 1 else 'them'} out.")
        return Finding("GPU", "fault" if 0 in unfit else "note", f"{names}; {causes}.", " ".join(remedies))
    full = [f"cuda:{number}" for number, gpu in enumerate(gpus) if gpu["state"] == "full"]
    if full:
        return note(
            "GPU", f"{names}; the memory of {', '.join(full)} is full.", "Wait for the processes there, or end them."
        )
    return ok("GPU", f"{names}; each computes what the CPU does" if len(gpus) > 1 else f"{names}; it computes right")


def usable(outcome: Outcome) -> int:
    """Return the number of usable GPUs, from the trial `compute_on_gpus`; 0 if the first fails, which jobs use."""
    fit = [gpu["state"] in ("right", "full") for gpu in outcome.values.get("gpus", ())]
    return sum(fit) if fit and fit[0] else 0


def judge_threads(computed: dict[str, Any], quota: float | None) -> Finding:
    """Return the finding for the threads of a job; `quota` is the cores' time that a control group grants, or None."""
    threads = computed["threads"]
    if isinstance(threads, str):
        return fault("threads", threads, "Unset KDCACHE_THREADS to use all cores.")
    if quota is not None and threads > max(1, round(quota)):
        return note(
            "threads",
            f"{threads}, but this container or job is given the time of {quota:g} cores: threads wait for each other.",
            f"Set KDCACHE_THREADS={max(1, round(quota))}.",
        )
    return ok("threads", f"{threads} to decode and compute with")


def granted_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the cores' time that this container's control group grants; None if it is not limited."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def look_at_shared_memory(gpus: int, place: str = "/dev/shm") -> Generator[Finding, None, None]:
    """Check shared memory, which worker processes and NCCL use."""
    try:
        disk = os.statvfs(place)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield note(
            "shared memory",
            f"{place} cannot be used ({error.strerror}): one process indexes images, and one GPU trains.",
            f"Mount a tmpfs at {place} that everybody may write.",
        )
        return
    free = disk.f_bavail * disk.f_frsize
    if gpus > 1 and free < SHARED_MEMORY:
        yield note(
            "shared memory",
            f"{place} has {free / 2**20:.0f} MiB free: too little for a training on {gpus} GPUs.",
            "Start the container with --shm-size 8g or --ipc host, and remove what dead processes left there.",
        )
    else:
        yield ok("shared memory", f"{free / GIB:.2f} GiB free at {place}")
