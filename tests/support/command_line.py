"""Running the command as a user does, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def kdcache(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `kdcache ARGUMENTS` prints and exits with; wide enough that no help text is folded."""
    return subprocess.run(
        [sys.executable, "-m", "kdcache_cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
