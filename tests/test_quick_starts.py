"""Help, refusals and `import kdcache` come at once: they import nothing that takes seconds, such as torch."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "torchvision", "zarr", "nvidia.dali", "webdataset", "scipy", "pyarrow")
COMMANDS = (
    *((), ("import",), *(("import", name) for name in ("folder", "imagenet", "cifar", "hf", "webdataset"))),
    *(("import", "fashion-mnist"), ("index",), ("preview",), ("dump-logits",)),
    *(
        ("train",),
        ("evaluate",),
        ("export",),
        ("inspect",),
        ("verify",),
        *(("cache",), ("cache", "copy"), ("cache", "inspect"), ("cache", "verify")),
        *(("cache", "push"), ("cache", "pull"), ("cache", "card")),
        ("demo",),
        ("doctor",),
        ("policies",),
    ),
    ("recipes",),
    ("report",),
)

REFUSED = (
    ("preview", "--out", "a.jpg"),
    ("dump-logits", "--teacher", "t", "--for", "dkd", "--targets", "topk"),
    ("dump-logits", "--teacher", "t", "--dtype", "uint8"),
)

#: Commands that should be quick, each with its exit code.
QUICK = (
    *(((*command, "--help"), 0) for command in COMMANDS),
    (("policies",), 0),
    *((arguments, 2) for arguments in REFUSED),
)

#: Each command in a fork of a process that has imported what all of them start with, and nothing else.
PROGRAM = """
import contextlib, io, json, os, sys

def loaded():
    return [name for name in HEAVY if name in sys.modules]

def ending(arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(arguments)
        except SystemExit as end:
            return end.code or 0
        return 0

import kdcache
print(json.dumps(["import kdcache", 0, loaded()]), flush=True)
from kdcache_cli.main import app
for arguments in COMMANDS:
    child = os.fork()
    if not child:
        print(json.dumps([arguments, ending(arguments), loaded()]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, arguments
"""


@pytest.fixture(scope="module")
def quick() -> dict[tuple[str, ...], tuple[int, list[str]]]:
    """The exit code of each command, and what it has imported that is heavy; a `kdcache` alone comes first."""
    settings = f"HEAVY, COMMANDS = {HEAVY!r}, {[[*arguments] for arguments, _ in QUICK]!r}"
    done = subprocess.run([sys.executable, "-c", settings + PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {tuple(name if isinstance(name, list) else name.split()): (code, heavy) for name, code, heavy in found}


@pytest.mark.parametrize(("command", "code"), [(("import", "kdcache"), 0), *QUICK])
def test_what_should_be_quick_imports_nothing_heavy(
    command: tuple[str, ...], code: int, quick: dict[tuple[str, ...], tuple[int, list[str]]]
) -> None:
    assert quick[command] == (code, [])
