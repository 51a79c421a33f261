"""Training from a cache that a dump elsewhere is still adding to: views are waited for, and never taken in part."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.loader.cached_teachers import CachedTeachers, open_cached_teachers, parse_teachers
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress
from kdcache.targets.base import Targets
from kdcache.views.policy import Policy

#: Seconds between two looks at what the dump has added.
PAUSE = 1.0


def pause() -> None:
    """Let some time pass before the next look."""
    time.sleep(PAUSE)


@dataclass(frozen=True)
class AwaitedBlocks:
    """Reads chunks for threads that read ahead of the training, each as soon as its block is in the cache."""

    _ended: Event = field(default_factory=Event)

    def read_with(self, entry: Entry) -> Callable[[int, int], Targets]:
        """Return a function like `entry.read_chunk` that waits for a block that is missing, until `close` is called."""

        def read(view: int, chunk: int) -> Targets:
            while not entry.is_recorded(view, entry.layout.block_of(chunk)):
                if self._ended.wait(PAUSE):
                    break  # nobody waits for the chunk any more: that it is missing is the error
            return entry.read_chunk(view, chunk)

        return read

    def close(self) -> None:
        """End the waits."""
        self._ended.set()


def wait_for_first_views(location: str, teacher: str | None, teachers: str | None, progress: Progress) -> None:
    """Wait until a cache has the first views of a training: those that share their order with view 0.

    Until then there may be no cache, or none of the wanted teachers in it; what is waited for is logged.

    Args:
        location: path or URL of the cache.
        teacher, teachers: entries of the training, as `open_cached_teachers` takes them.

    Raises:
        UsageError: the cache holds several teachers, and none is named.
    """
    logged = None
    while True:
        missing = _missing_at_first(location, teacher, teachers)
        if missing is None:
            return
        if missing != logged:
            progress.say(describe_wait(missing))
            logged = missing
        pause()


def missing_of_views(stored: CachedTeachers, first: int, repeats: int) -> str | None:
    """Return as text what a cache lacks of the `repeats` views from `first` on; None where they are complete."""
    for entry in stored.entries:
        for view in range(first, first + repeats):
            there = len(entry.recorded(view))
            if there < entry.layout.blocks:
                return (
                    f"view {view} of {entry.identity.name}, of which the cache has {there:,} of "
                    f"{format_count(entry.layout.blocks, 'block')}"
                )
    return None


def describe_wait(missing: str) -> str:
    """Return the message that a training waits for what is missing of a view."""
    return f"Waiting for {missing}. A `kdcache dump-logits` elsewhere adds it; start that, if none is running."


def _missing_at_first(location: str, teacher: str | None, teachers: str | None) -> str | None:
    wanted = list(parse_teachers(teachers)) if teachers is not None else [teacher] if teacher is not None else []
    if not Cache.exists(location):
        return f"a cache at {location}"
    cache = Cache.open(location)
    names = cache.names()
    if not names:
        return f"the first teacher of the cache {location}"
    for name in wanted:
        if name not in names:
            return f"the teacher {name} in the cache {location}, which has {', '.join(names)}"
    stored = open_cached_teachers(cache, teacher, teachers)
    return missing_of_views(stored, 0, Policy.from_json(cache.view_set.policy).repeats)
