"""Waiting for work that another process is at, and saying so."""

import time
from dataclasses import dataclass, field

from kdcache.cache.claims import Claims
from kdcache.runtime.progress import Progress

#: Seconds between two looks at what other processes are making.
PAUSE = 1.0

#: Seconds that are waited without a word.
QUIET = 5.0


@dataclass
class Waiting:
    """One process's waits for others; each piece of work that keeps it waiting for longer is told of once."""

    claims: Claims
    progress: Progress
    _since: dict[str, float] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def pause(self, claim: str, what: str) -> None:
        """Wait a moment for the holder of a claim; `what` names the work."""
        now = time.monotonic()
        if claim not in self._told and now - self._since.setdefault(claim, now) >= QUIET:
            holder = self.claims.holder(claim)
            if holder is not None:
                self.progress.say(f"Waiting for {what}: {holder.describe()}")
                self._told.add(claim)
        time.sleep(PAUSE)
