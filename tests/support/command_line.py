"""Running the command as a user does, in a process of its own."""

import os
import subprocess
from pathlib import Path

from support.forked import run_command


def kdcache(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `kdcache ARGUMENTS` prints and exits with; wide enough that no help text is folded."""
    return run_command(
        [str(argument) for argument in arguments],
        cwd,
        {**os.environ, "COLUMNS": "300", "NO_COLOR": "1", **environment},
    )
