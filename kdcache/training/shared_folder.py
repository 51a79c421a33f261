"""A check that all processes see one run folder, rather than each its own of the same path."""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import torch

from kdcache.errors import RunError
from kdcache.io.disk import Disk
from kdcache.io.folders import Folder
from kdcache.runtime.distributed import Distributed
from kdcache.training.files import refusals

_VISIBILITY_TIMEOUT = 5.0
"""Seconds that a file of another node may take to be seen."""


def require_shared(folder: Path, processes: Distributed) -> None:
    """Refuse unless every process sees a file that the first makes in `folder`.

    Every process has to call it. A single process passes.

    Raises:
        RunError: in every process, naming those that see another folder.
    """
    if processes.is_single:
        return
    # A name that nobody can have looked for yet, so that no node has kept in mind that it is not there.
    number = torch.tensor(secrets.randbits(62) if processes.is_main else 0)
    token = folder / f".seen-by-all-{processes.all_reduce_sum(number).item():016x}"
    refused = _make(token) if processes.is_main else None
    processes.barrier()
    sees = processes.all_gather(torch.tensor(_appears(token)))
    if processes.is_main:
        with suppress(OSError), Folder.trusted(folder) as place:
            Disk().remove(place.at(token.name))
    if refused is not None:
        raise refused
    blind = [str(rank) for rank, there in enumerate(sees) if not there]
    if blind:
        raise RunError(
            f"{'Process' if len(blind) == 1 else 'Processes'} {', '.join(blind)} of {len(sees)} (counted from 0) "
            f"cannot see what process 0 writes into {folder}, and all of them have to read there what this run has "
            "learnt before: give an --out that lies on a file system which all nodes share."
        )


def _make(token: Path) -> RunError | None:
    """Make an empty file. Returns the error in place of raising it, because the other processes wait for the result."""
    try:
        with refusals(token), Folder.trusted(token.parent) as place:
            os.close(Disk().create(place.at(token.name)))
    except RunError as error:
        return error
    return None


def _appears(file: Path) -> bool:
    until = time.monotonic() + _VISIBILITY_TIMEOUT
    while not file.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
