"""Damaging a cache, and looking at what became of it."""

import random
from pathlib import Path

from kdcache.jobs.examining.health import VerifyReport
from kdcache.jobs.verify import VerifyRequest, verify

#: Of each teacher of the cache that is damaged.
VIEWS = 2


def look(path: Path, repair: bool = False) -> VerifyReport:
    """What verify finds."""
    return verify(VerifyRequest(cache=str(path), repair=repair))


def flipped(rng: random.Random, data: bytes) -> bytes:
    """With one byte altered."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]
