"""The name and the cache folder that libraries expect of a user's account, for accounts without them.

A container or a cluster may run a process under a number that the user database does not know, without USER, LOGNAME
and HOME, or with a home folder that is not there or cannot be written. PyTorch then dies while it is imported (its
compiler asks for the user's name), `Path.home()` raises, and others make a folder called `~`. So before any of them is
imported the environment is given what is missing, and child processes inherit it.
"""

import os
import pwd
from collections.abc import MutableMapping
from pathlib import Path

#: The variables that `getpass.getuser` takes a name from.
_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


def complete_environment(environment: MutableMapping[str, str], user: int, folder: Path) -> str | None:
    """Add what is missing to an environment; what is set stays as it is.

    Args:
        environment: the process's own, or a copy.
        user: number of the user.
        folder: the working folder; cached files go to `.cache` in it where the account has no place for them.

    Returns:
        Where cached files go, and why, in sentences; None where nobody needs to know.
    """
    entry = _entry(user) if _asks_the_database(environment) else None
    if entry is None and not any(environment.get(name) for name in _NAMES):
        environment["USER"] = f"uid{user}"
    home = environment.get("HOME") or (entry.pw_dir if entry is not None else "")
    chosen = environment.get("XDG_CACHE_HOME")
    if home and _can_be_written(Path(home) / ".cache"):
        return None
    cached = chosen or str(folder / ".cache")
    if not home:
        environment["HOME"] = cached
    elif not chosen and os.path.isdir(f"{home}/.cache/huggingface"):
        # Weights that lie in a home folder that can only be read are found there as before.
        environment.setdefault("HF_HOME", f"{home}/.cache/huggingface")
    environment["XDG_CACHE_HOME"] = cached
    for name, place in (
        ("TRITON_HOME", cached),
        ("CUDA_CACHE_PATH", f"{cached}/nv"),
        ("MPLCONFIGDIR", f"{cached}/matplotlib"),
    ):
        environment.setdefault(name, place)
    if chosen:
        return None
    lack = f"The home folder {home} cannot be written" if home else f"User {user} has no home folder"
    return (
        f"{lack}: weights, indices and other files for later are kept in {cached}. Set HOME or XDG_CACHE_HOME to "
        "choose another folder."
    )


def _asks_the_database(environment: MutableMapping[str, str]) -> bool:
    """Return whether the user database must be read, which may be remote."""
    return not environment.get("HOME") or not any(environment.get(name) for name in _NAMES)


def _entry(user: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user)
    except KeyError:
        return None


def _can_be_written(path: Path) -> bool:
    """Return whether a folder can be written, or created in the nearest existing one above it."""
    while not os.path.lexists(path):
        if path == path.parent:
            return False
        path = path.parent
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path("/")


#: Message about the account when kdcache was imported; None if nothing is missing, and in child processes.
NOTE = complete_environment(os.environ, os.getuid(), _working_folder())
