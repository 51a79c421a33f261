"""Commands that error messages recommend, quoted for a shell."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.data.places import is_url


def arguments(data: str | Path, unlabelled: bool) -> str:
    """Return DATA, quoted if necessary, with the option that its index was built with."""
    return shlex.quote(str(data)) + " --unlabelled" * unlabelled


def about_bad(data: str) -> str:
    """Return sentences on what to do about images that cannot be decoded.

    data: argument of a command for the shards (see `arguments`).
    """
    return (
        f"`kdcache index {data} --check` finds all such images. `kdcache index {data} --mark-bad` marks them as lost, "
        "and caches of these data stay usable; --drop-bad leaves them out, and such caches are refused"
    )


def take_again(part: Path, meta: Mapping[str, Any], whole: str) -> str:
    """Return the command that creates a part again; values that its `index.json` does not hold are in capitals.

    part: folder of the part.
    meta: content of its `index.json`.
    whole: `arguments` of the data set that it is a part of.
    """
    how = meta.get("part")
    how = how if isinstance(how, dict) else {}
    options = f"--fraction {how.get('fraction', 'F')}" + " --stratified" * bool(how.get("stratified"))
    return f"kdcache index {whole} {options} --out {shlex.quote(str(part))}"


def keep_data(data: str | Path, folder: Path) -> str:
    """Return DATA with paths relative to a folder, for a folder that may be moved together with the shards."""
    if not _has_paths(str(data)):
        return str(data)
    return "::".join(os.path.relpath(path, folder) for path in str(data).split("::"))


def kept_data(text: object, folder: Path) -> str:
    """Return the DATA of `keep_data` with absolute paths; empty if nothing was kept."""
    if not isinstance(text, str) or not text:
        return ""
    if not _has_paths(text):
        return text
    return "::".join(os.path.normpath(os.path.join(folder, path)) for path in text.split("::"))


def _has_paths(data: str) -> bool:
    return not is_url(data) and "$" not in data  # the value of an environment variable is not known here
