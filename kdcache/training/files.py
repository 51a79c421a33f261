"""Files and folders of a run that are whole or not there, whenever the process is killed, written through no link.

The run's own folder may be a link that the user made; below it none is followed.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.errors import RunError, reason
from kdcache.io import atomic
from kdcache.io.failures import cannot_write, system_error
from kdcache.io.reading import read_bytes

#: Names of files in a run's folder: its settings, and what its results depend on beside them.
CONFIG, IDENTITY = "config.yaml", "run_identity.json"
#: The page of `train --report`.
REPORT = "report.html"
_KEPT = "What was saved before is whole"


def replace_file(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Put a file with these bytes in the place of what is there; flushed before it is.

    Args:
        root: the folder that the user named, below which no link is followed; None for the file's own.

    Raises:
        RunError: the disk refuses, or a folder on the way is a link.
    """
    root = root or path.parent
    with refusals(path):
        atomic.replace_file(root, _key(path, root), data)


def append_line(path: Path, line: str, *, root: Path | None = None) -> None:
    """Add a line to a file, or nothing of it; made where it is missing. Arguments and errors as of `replace_file`."""
    root = root or path.parent
    with refusals(path):
        atomic.append(root, _key(path, root), line.encode())


@contextmanager
def new_folder(path: Path, ours: re.Pattern[str], *, root: Path | None = None) -> Iterator[Path]:
    """Yield a folder to fill, which stands at `path` once the block has ended well; what stood there gives way to it.

    Args:
        ours: pattern of the names of all that such a folder holds; one that holds more is not replaced.
        root: the folder that the user named, below which no link is followed; None for the one that `path` is in.

    Raises:
        RunError: the disk refuses, also where a library says so in an error of its own; or there is a link.
    """
    root = root or path.parent
    with refusals(path), atomic.new_folder(root, _key(path, root), ours) as folder:
        yield folder


def remove_known(path: Path, known: re.Pattern[str], *, root: Path) -> None:
    """Remove a file or folder and in it what is known, a pattern for paths below `root`; raises as `replace_file`."""
    with refusals(path):
        atomic.remove_known(root, _key(path, root), known)


def tidy(folder: Path, *, root: Path | None = None) -> None:
    """Remove what a killed process left half written in `folder`, by its name. Not while another one writes there."""
    root = root or folder
    with refusals(folder):
        atomic.tidy(root, _key(folder, root))


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn what the system refuses, be it in an error of a library, into a RunError that names the path."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        refused = system_error(error)
        if refused is None:
            raise
        raise RunError(cannot_write(path, refused, _KEPT)) from error


def _key(path: Path, root: Path) -> str:
    return "/".join(path.relative_to(root).parts)


def read_values(file: Path, parse: Callable[[bytes], Any], otherwise: str) -> dict[str, Any]:
    """Return the values by name that a file of a run holds.

    Args:
        parse: `parse_json` or `parse_yaml`.
        otherwise: what to do where the file cannot be restored, for the message.

    Raises:
        RunError: the file cannot be read, or holds something else.
    """
    try:
        values = parse(read_bytes(file))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({reason(error)}): restore it, or {otherwise}.") from error
    if not isinstance(values, dict):
        raise RunError(f"{file} holds no values by name: restore it, or {otherwise}.")
    return values
