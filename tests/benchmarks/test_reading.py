"""The benchmark of reading answers runs for every kind of targets."""

import subprocess
import sys
from pathlib import Path


def test_reading_is_measured_for_every_kind(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/reading.py", "--chunks", "1", "--classes", "4"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    assert [row[0].split(",")[0].split(" of ")[0].strip() for row in rows] == [
        "topk", "full", "full", "embedding", "embedding"
    ]  # fmt: skip
    assert all(float(row[2]) > 0 for row in rows)
