"""Waiting for blocks that another process computes, with a message."""

import time
from dataclasses import dataclass, field

from kdcache.cache.claims import Claims
from kdcache.runtime.progress import Progress

#: Seconds between two checks of what other processes have written.
PAUSE = 1.0

#: Seconds of waiting before a message is logged.
QUIET = 5.0


@dataclass
class Waiting:
    """The waits of one process for others; each claim that it waits for longer than `QUIET` is logged once."""

    claims: Claims
    progress: Progress
    _since: dict[str, float] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)

    def pause(self, claim: str, what: str) -> None:
        """Wait for `PAUSE` seconds for the holder of a claim; `what` names the block in the message."""
        now = time.monotonic()
        if claim not in self._logged and now - self._since.setdefault(claim, now) >= QUIET:
            holder = self.claims.holder(claim)
            if holder is not None:
                self.progress.say(f"Waiting for {what}: {holder.describe()}")
                self._logged.add(claim)
        time.sleep(PAUSE)
