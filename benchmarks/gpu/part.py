"""One part of a sitting, in this process: writes the tables that it finds, as it finds them.

python benchmarks/gpu/part.py NAME --tables FILE [--device D] [--decode W] [--tiny]
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
for folder in (HERE.parent, ROOT, ROOT / "cli", ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as kdcache's own commands set it

from gpu.page import Table, replace_text, tables_to_json
from gpu.plan import BY_NAME


def run_part(part: Callable[..., Iterator[Table]], setting: object, file: Path) -> list[Table]:
    """Run a part; after each table write all that there are. One of a title that was there before replaces it."""
    tables: dict[str, Table] = {}
    for table in part(setting):
        tables[table.title] = table
        replace_text(file, json.dumps(tables_to_json(tables.values())))
    return list(tables.values())


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BY_NAME)
    parser.add_argument("--tables", type=Path, required=True, help="file that the tables are written to, as JSON")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--decode", default="auto", choices=("auto", "gpu", "cpu"))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(arguments)
    chosen = BY_NAME[asked.name]
    # Imported only now: the part "versions" must run where the modules of other parts cannot be imported.
    part = getattr(importlib.import_module(f"gpu.parts.{chosen.module}"), chosen.function)
    run_part(part, make_setting(asked), asked.tables)


def make_setting(asked: argparse.Namespace) -> object:
    """The setting that was asked for; the device alone where kdcache or PyTorch cannot be imported."""
    if asked.name == "versions":
        return asked.device
    from gpu.setting import Setting
    from kdcache.runtime.device import resolve_device

    device = resolve_device(asked.device)
    return Setting.tiny(device, asked.decode) if asked.tiny else Setting(device, asked.decode)


if __name__ == "__main__":
    main(sys.argv[1:])
