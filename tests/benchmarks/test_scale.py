"""The benchmark of what is computed for all samples runs, each measurement in a process of its own."""

import subprocess
import sys
from pathlib import Path


def test_everything_is_measured_for_a_data_set_of_two_windows(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/scale.py", "--samples", "100000", "--runs", "1"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "index built",
        "index opened",
        "order of a view",
        "order of a view, one window",
        "order of a view seen again",
        "windows made",
        "windows read",
        "epoch planned, process 1 of 1",
        "epoch planned, process 1 of 8",
        "epoch planned, process 1 of 64",
        "targets of a view",
    ]
    for samples, *figures in (row[1:] for row in rows):
        assert samples == "100,000"
        assert len(figures) == 3
        assert all(float(figure) >= 0 for figure in figures)
    seconds = {row[0]: float(row[3]) for row in rows}
    for name in ("index built", "order of a view", "epoch planned, process 1 of 1", "targets of a view"):
        assert seconds[name] > 0
