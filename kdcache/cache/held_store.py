"""Holding a whole cache in an object store, as `kdcache.io.folder_lock` holds a folder.

A copy to a cache, or a repair of one, has a claim on all of it, an object as of `BeatingClaims`. It names process and
host; its owner rewrites it every few seconds, and after a kill it is taken over once it is older than `LEASE_TIMEOUT`.
Dumps do not ask for it: claims on blocks, which a copy and a repair take as well, keep them out of each other's way.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.cache.claims import BeatingClaims, Claims, Holder
from kdcache.cache.files import Files
from kdcache.errors import FolderHeldError
from kdcache.io.folder_lock import NOTICE_AFTER, Tell
from kdcache.runtime.signals import last_act

#: The name of the claim; those on blocks end with two numbers.
CLAIM = "cache"

#: Seconds between two looks at the claim of another process.
PAUSE = 1.0


@contextmanager
def hold_store(files: Files, tell: Tell) -> Iterator[None]:
    """Hold a cache for the length of a `with` block.

    Where another process has the claim, its next heartbeat is waited for, or its absence.

    Args:
        files: files of the cache, open for writing.
        tell: called once with a message about what is waited for.

    Raises:
        FolderHeldError: the other process showed a heartbeat.
        CacheError: the store cannot be reached or written.
    """
    with BeatingClaims(files) as claims, last_act(claims.close):
        _take(claims, files.locate(""), tell)
        yield


def _take(claims: Claims, place: str, tell: Tell) -> None:
    began, told = time.monotonic(), False
    before: Holder | None = None
    while not claims.take(CLAIM):
        holder = claims.holder(CLAIM)
        if holder is not None and before is not None and _has_beaten(before, holder):
            raise FolderHeldError(f"The cache {place} is being written by {holder.who}. Wait until it has ended.")
        if holder is not None and not told and time.monotonic() - began >= NOTICE_AFTER:
            told = True
            tell(
                f"The cache {place} was being written by {holder.who}, and it is not known here whether that process "
                "still runs. Waiting for its heartbeat; without one, this command continues within "
                f"{holder.lease_timeout:.0f} s."
            )
        before = holder or before
        time.sleep(PAUSE)


def _has_beaten(before: Holder, now: Holder) -> bool:
    """Return whether there was a heartbeat between two looks at a claim, or another process has it now."""
    assert before.silent is not None
    assert now.silent is not None
    return now.who != before.who or now.silent < before.silent
