"""Commands that errors advise, as a shell takes them."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.data.places import is_url


def arguments(data: str | Path, unlabelled: bool) -> str:
    """DATA quoted where the shell asks for it, with the option that its index was built with."""
    return shlex.quote(str(data)) + " --unlabelled" * unlabelled


def about_bad(data: str) -> str:
    """What helps against images that cannot be decoded, as sentences.

    data: the shards as a command takes them (`arguments`).
    """
    return (
        f"`kdcache index {data} --check` finds all such images. `kdcache index {data} --mark-bad` passes over them, "
        "and caches that were made from these data stay usable; --drop-bad in its place leaves them out, and such "
        "caches are refused"
    )


def take_again(part: Path, meta: Mapping[str, Any], whole: str) -> str:
    """The command that takes a part once more; in capitals what its `index.json` does not say.

    part: its folder; meta: what its `index.json` says; whole: the `arguments` of what it is a part of.
    """
    how = meta.get("part")
    how = how if isinstance(how, dict) else {}
    options = f"--fraction {how.get('fraction', 'F')}" + " --stratified" * bool(how.get("stratified"))
    return f"kdcache index {whole} {options} --out {shlex.quote(str(part))}"


def keep_data(data: str | Path, folder: Path) -> str:
    """DATA as a folder may keep it that moves with the shards: its paths relative to that folder."""
    if not _has_paths(str(data)):
        return str(data)
    return "::".join(os.path.relpath(path, folder) for path in str(data).split("::"))


def kept_data(text: object, folder: Path) -> str:
    """What `keep_data` was given, its paths absolute; empty where nothing was kept."""
    if not isinstance(text, str) or not text:
        return ""
    if not _has_paths(text):
        return text
    return "::".join(os.path.normpath(os.path.join(folder, path)) for path in text.split("::"))


def _has_paths(data: str) -> bool:
    return not is_url(data) and "$" not in data  # what a variable of the environment stands for is not known here
