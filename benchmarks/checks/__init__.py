"""The parts of `gpu_checks.py`: each makes a table of what it found. They use photographs and checks of the tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "tests"))
