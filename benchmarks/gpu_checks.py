"""Every check that needs a GPU, as a Markdown page: whether what decodes, augments and mixes there is right and fast.

    python benchmarks/gpu_checks.py > gpu.md

`docs/gpu.md` says which machines it has run on. It needs a checkout with its test dependencies. Exits with 1 when a
check fails or there is no GPU; `--device cpu --tiny` runs all of it without one, to see that it runs.
"""

import argparse
import datetime
import platform
import subprocess
import sys

import nvidia.dali
import timm
import torch
from checks.augmenting import augmenting
from checks.contract import contract
from checks.decoding import decoding
from checks.report import Line, Setting, Table, cause
from checks.speed import speed

import kdcache
from kdcache.errors import KdcacheError
from kdcache.runtime.device import resolve_device

CHECKS = {"contract": contract, "decoding": decoding, "augmenting": augmenting, "speed": speed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a dry run")
    parser.add_argument("--only", choices=CHECKS, nargs="+", default=list(CHECKS), help="some of the checks")
    parser.add_argument("--tiny", action="store_true", help="small images, few of them, and a small network")
    asked = parser.parse_args()
    try:
        device = resolve_device(asked.device)
    except KdcacheError as error:
        print(f"{error} A dry run without a GPU: --device cpu --tiny.", file=sys.stderr)
        return 1
    setting = Setting.tiny(device) if asked.tiny else Setting(device)
    print(heading(device, asked.tiny), flush=True)
    failures = []
    for name in asked.only:
        table = checked(name, setting)
        print(table.markdown(), flush=True)
        failures += table.failures
    print(f"{len(failures)} checks failed: {'; '.join(failures)}." if failures else "Every check holds.")
    return 1 if failures else 0


def checked(name: str, setting: Setting) -> Table:
    """The table of one check; one that breaks off does not keep the others from being made."""
    try:
        return CHECKS[name](setting)
    except Exception as error:
        return Table(name.capitalize(), ("what", "result"), [Line(("all of it", cause(error)), False)])


def heading(device: torch.device, tiny: bool) -> str:
    """When and with what."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "GPU": torch.cuda.get_device_name(device) if device.type == "cuda" else "none: a dry run on the CPU",
        "driver": driver() if device.type == "cuda" else "none",
        "kdcache": kdcache.__version__,
        "PyTorch": f"{torch.__version__} (CUDA {torch.version.cuda})",
        "DALI": nvidia.dali.__version__,
        "timm": timm.__version__,
        "Python": platform.python_version(),
    }
    lines = ["# Checks on a dry run" if device.type != "cuda" else "# Checks on a GPU", ""]
    lines += [f"* {name}: {value}" for name, value in facts.items()]
    return "\n".join([*lines, *(["* tiny: these figures say nothing about speed"] if tiny else []), ""])


def driver() -> str:
    """The version of NVIDIA's driver."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown: nvidia-smi does not tell"


if __name__ == "__main__":
    sys.exit(main())
