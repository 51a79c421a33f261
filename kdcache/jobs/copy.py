"""`kdcache cache copy`: a cache, or a part of it, somewhere else."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from kdcache.cache.claims import Claims, block_claim
from kdcache.cache.copying import copy_block
from kdcache.cache.entry import Entry
from kdcache.cache.layout import VIEW_CAPACITY
from kdcache.cache.store import Cache
from kdcache.errors import UsageError
from kdcache.jobs.wording import readable
from kdcache.progress import Progress, silent

#: Seconds between two looks at blocks that other processes are at.
PAUSE = 2.0

#: An entry, where it goes, and a view and block of it.
Work = tuple[Entry, Entry, int, int]


@dataclass(frozen=True)
class CopyRequest:
    """What `cache copy` was asked for.

    Attributes:
        views: the views to take, such as "0:50" (view 50 not among them); None for all. They keep their numbers.
        teachers: names of entries; empty for all.
    """

    source: str
    target: str
    views: str | None = None
    teachers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CopyReport:
    """What was copied.

    Attributes:
        copied: blocks, of `blocks` that the part of the source has; the others were there already.
        copied_bytes: of these blocks.
    """

    source: str
    target: str
    teachers: tuple[str, ...]
    copied: int
    blocks: int
    copied_bytes: int

    def lines(self) -> list[str]:
        """The report as a plain line."""
        return [
            f"{self.target} holds {self.blocks:,} blocks of {', '.join(self.teachers)} from {self.source}: "
            f"{self.copied:,} copied now and checked ({readable(self.copied_bytes)})."
        ]


def copy_cache(request: CopyRequest, progress: Progress = silent) -> CopyReport:
    """Copy a cache's views and answers; what is there already is left alone, so that it can be killed and run again.

    Raises:
        UsageError: views or teachers that make no sense or are not there.
        IdentityError: the target is a cache of other views, or holds other answers under a teacher's name.
        CorruptError: a block of the source is damaged; blocks before it are copied.
        RecordedError: another process wrote other bytes of a block at the same time.
    """
    source = Cache.open(request.source)
    wanted = parse_views(request.views)
    names = _names(source, request.teachers)
    target = Cache.ensure(request.target, source.view_set, source.windows)
    work: list[Work] = []
    blocks = 0
    for name in names:
        entry = source.entry(name)
        there = target.add_teacher(entry.identity, entry.coding, exact=True)
        for view in (view for view in entry.views() if view in wanted):
            listed = entry.listed(view)
            blocks += len(listed)
            work += [(entry, there, view, block) for block in sorted(listed - there.recorded(view))]
    copied = copied_bytes = 0
    with (
        target.claims() as claims,
        progress.task(f"{request.source} to {request.target}", total=len(work), unit="blocks") as task,
    ):
        for size in _copied(work, claims):
            copied, copied_bytes = copied + (size is not None), copied_bytes + (size or 0)
            task.advance()
    target.files.tidy()
    return CopyReport(request.source, request.target, names, copied, blocks, copied_bytes)


def _copied(work: list[Work], claims: Claims) -> Iterator[int | None]:
    """Copy blocks as `copy_block` does, and yield what it returns; those that others are at come last."""
    while work:
        left = []
        for entry, there, view, block in work:
            claim = block_claim(entry.identity.name, view, block)
            if not claims.take(claim):
                left.append((entry, there, view, block))
                continue
            try:
                yield copy_block(entry, there, view, block)
            finally:
                claims.release(claim)
        if left and len(left) == len(work):
            time.sleep(PAUSE)
        work = left


def parse_views(text: str | None) -> range:
    """Views as a user names them: "0:50", ":50", "10:", or "7" for one. Raises UsageError for anything else."""
    if text is None:
        return range(VIEW_CAPACITY)
    found = re.fullmatch(r"(\d*):(\d*)|(\d+)", text.strip())
    if found is None:
        raise UsageError(f"Views {text!r} make no sense: give a range such as 0:50, which leaves view 50 out.")
    if found[3] is not None:
        return range(int(found[3]), int(found[3]) + 1)
    views = range(int(found[1] or 0), int(found[2] or VIEW_CAPACITY))
    if not views:
        raise UsageError(f"Views {text!r} are none: the second number has to be larger than the first.")
    return views


def _names(source: Cache, asked: tuple[str, ...]) -> tuple[str, ...]:
    there = sorted(source.teachers())
    if not there:
        raise UsageError(f"The cache {source.location} holds no teacher's answers: there is nothing to copy.")
    for name in asked:
        if name not in there:
            raise UsageError(f"The cache {source.location} holds no teacher {name!r}; it holds {', '.join(there)}.")
    return tuple(dict.fromkeys(asked)) or tuple(there)
