"""Processes of a user whom the user database does not know, without USER, LOGNAME and HOME."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kdcache

USER = 12345

_SOURCES = Path(kdcache.__file__).parent.parent

# For tests that do not run as root: this user's own number, which the database is made not to know.
_UNKNOWN = """
import pwd, runpy, sys

def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = getpwuid
_, *sys.argv = sys.argv
exec(sys.argv[1]) if sys.argv[0] == "-c" else runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_as_unknown(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `-c CODE` or a module with its arguments; what root can read can be read, and `cwd` is the user's own.

    As root the process has another user's number; else it is this user's, and is told that nobody knows it.
    """
    cleared = {"HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME"}
    known = {name: value for name, value in os.environ.items() if name not in cleared}
    known["PYTHONPATH"] = os.pathsep.join([str(_SOURCES), str(_SOURCES / "cli"), known.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", _UNKNOWN, *map(str, arguments)]
    if os.getuid() == 0 and shutil.which("setpriv"):
        os.chown(cwd, USER, USER)
        # The interpreter may lie in root's home folder, and pytest's folders are for their maker alone.
        reading = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *reading, *command]
    return subprocess.run(command, cwd=cwd, env=known | environment, capture_output=True, text=True, check=False)
