"""The benchmark of reading targets runs in both orders."""

import subprocess
import sys
from pathlib import Path


def test_reading_is_measured_in_both_orders(project_root: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/reading.py",
            "--chunks",
            "1",
            "--classes",
            "4",
            "--features",
            "16",
            "--rate",
            "1e6",
            "--only",
            "16, uint8",
        ],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    kinds = [row[0].split(",")[0].split(" of ")[0] for row in rows]
    assert kinds == ["embedding", "embedding"]
    assert [row[2] for row in rows] == ["as it lies", "seen again"]
    for waits, cpu, memory in (row[3:] for row in rows):
        assert float(waits.rstrip("% ")) > 0
        assert float(cpu) > 0
        assert float(memory) > 0
