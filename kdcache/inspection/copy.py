"""`kdcache cache copy`: copy a cache, or a part of it, to another place."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kdcache.cache.claims import Claims, block_claim
from kdcache.cache.copying import copy_block
from kdcache.cache.coverage import Coverage, views_named
from kdcache.cache.entry import Entry
from kdcache.cache.files import Files
from kdcache.cache.identity import FORMAT
from kdcache.cache.layout import VIEW_CAPACITY
from kdcache.cache.locations import hold_cache
from kdcache.cache.store import Cache
from kdcache.cache.tables import restore_tables
from kdcache.cache.verify import MAX_UNREADABLE
from kdcache.errors import CacheError, SourceError, UnreadableError, UsageError
from kdcache.inspection.options import CopyOptions as CopyOptions
from kdcache.runtime.formatting import format_bytes, format_count
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.signals import last_act
from kdcache.views.policy import Policy

#: Seconds between two checks of blocks that other processes are copying.
PAUSE = 2.0

#: Number of blocks that cannot be copied which are listed.
SHOWN = 20

#: Source entry, target entry, view, block.
Work = tuple[Entry, Entry, int, int]


@dataclass(frozen=True)
class CopyReport:
    """The result of a copy.

    Attributes:
        copied: number of blocks copied, of the requested `blocks` of the source; the target had the others already.
        copied_bytes: bytes of the copied blocks.
        problems: a sentence for each block that is damaged in the source or cannot be read, and was left out.
        left_out: reason why a teacher of the source was left out, by its name; only if it was not named in `teachers`.
        damaged: whether any of these is damaged; else they could not be read, and may be undamaged.
    """

    source: str
    target: str
    teachers: tuple[str, ...]
    copied: int
    blocks: int
    copied_bytes: int
    problems: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    damaged: bool = False

    @property
    def whole(self) -> bool:
        """Whether nothing was left out."""
        return not self.problems and not self.left_out

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "whole": self.whole}

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        there = self.blocks - len(self.problems)
        lines = [
            *(f"Teacher '{name}' is left out: {problem}" for name, problem in self.left_out.items()),
            *self.problems[:SHOWN],
            f"{self.target} holds {there:,} of {format_count(self.blocks, 'block')} of {', '.join(self.teachers)} "
            "requested "
            f"and found in {self.source}: {self.copied:,} copied now and checked ({format_bytes(self.copied_bytes)}), "
            f"{there - self.copied:,} copied before.",
        ]
        if not self.whole:
            blocks = [format_count(len(self.problems), "block")] if self.problems else []
            teachers = [f"the teacher {', '.join(self.left_out)}"] if self.left_out else []
            remedy = (
                "is repaired (kdcache verify --repair, then the same dump-logits)" if self.damaged else "can be read"
            )
            lines.append(
                f"NOT copied: {' and '.join(blocks + teachers)}. When the source {remedy}, the same copy adds what is "
                "missing."
            )
        return lines


def copy_cache(options: CopyOptions, progress: Progress = logged) -> CopyReport:
    """Copy a cache's views and targets; existing blocks are skipped, so that a copy can be killed and run again.

    Raises:
        UsageError: invalid views or teachers, or none that the source holds.
        IdentityError: the target is a cache of other views, or holds another teacher under the same name.
        CorruptError: written bytes differ when they are read back.
        SourceError: too many blocks in a row of the source cannot be read.
        RecordedError: another process wrote other bytes of a block at the same time.
        FolderHeldError: another process copies to the target, or repairs it. A dump may run at the same time.
    """
    source = Cache.open(options.source)
    with hold_cache(options.target, progress.say, new=True):
        return copy_opened(source, options, progress)


def copy_opened(
    source: Cache,
    options: CopyOptions,
    progress: Progress,
    open_target: Callable[[], Files] | None = None,
    *,
    command: str = "kdcache cache copy",
) -> CopyReport:
    """Copy from an open cache, as `copy_cache` does, whose target the caller holds.

    Args:
        open_target: opens the target's files, once the options are known to be right; None: `options.target` names
            them.
        command: the command that copies so, for messages.
    """
    wanted = parse_views(options.views)
    entries, left_out = _entries(source, options.teachers)
    entries = _with_any(entries, wanted, options, progress)
    files = None if open_target is None else open_target()
    target = Cache.ensure(options.target, replace(source.view_set, format=FORMAT), source.windows, files=files)
    if source.format_warning is not None:
        progress.warn(source.format_warning + " Blocks exchanged before are copied undetected.")
    work: list[Work] = []
    blocks = 0
    pairs = [(entry, target.add_teacher(entry.identity, entry.codec, exact=True)) for entry in entries]
    for entry, there in pairs:
        for view in (view for view in entry.views() if view in wanted):
            listed = entry.surely_listed(view)
            blocks += len(listed)
            work += [(entry, there, view, block) for block in sorted(listed - there.recorded(view))]
    target.add_lost_of(source)  # only now: the lost samples of every listed block were recorded before the block
    for entry, there in pairs:
        what = _usable(entry, there, wanted, options, command)
        if what is not None:
            progress.warn(what)
    copied = copied_bytes = 0
    problems: list[SourceError] = []
    with (
        target.claims() as claims,
        last_act(claims.close),
        progress.task(f"{options.source} to {options.target}", total=len(work), unit="blocks") as task,
    ):
        in_a_row = 0
        for found in _copied(work, claims):
            in_a_row = in_a_row + 1 if isinstance(found, SourceError) else 0
            if isinstance(found, SourceError):
                problems.append(found)
                if in_a_row == MAX_UNREADABLE:
                    raise SourceError(
                        f"{in_a_row} blocks in a row cannot be copied: {found} Check the source with kdcache verify; "
                        "blocks copied before stay, and the same command continues from there."
                    ) from found
            elif found is not None:
                copied, copied_bytes = copied + 1, copied_bytes + found
            task.advance()
    for _, there in pairs:  # another process may have replaced the tables meanwhile
        restore_tables(target.files, there.codec, there.identity)
    target.files.tidy()
    names = tuple(entry.identity.name for entry in entries)
    sentences = tuple(map(str, problems))
    damaged = any(error.damaged for error in (*problems, *left_out.values()))
    reasons = {name: str(error) for name, error in left_out.items()}
    return CopyReport(options.source, options.target, names, copied, blocks, copied_bytes, sentences, reasons, damaged)


def _usable(source: Entry, target: Entry, wanted: range, options: CopyOptions, command: str) -> str | None:
    """Return a warning if training cannot use all copied views; None if the copy serves as the source does."""
    there = tuple(sorted((set(source.whole_views()) & set(wanted)) | set(target.whole_views())))
    coverage = Coverage(there, Policy.from_json(source.view_set.policy).repeats)
    if not there or (coverage.usable and not coverage.is_cut):
        return None
    missing = sorted(set(range(coverage.usable + coverage.repeats)) - set(there))
    lack = f"{views_named(missing)} {'is' if len(missing) == 1 else 'are'} copied, too"
    remedy = f"run `{command} {options.source} {options.target} --views {missing[0]}:{missing[-1] + 1}`"
    if not set(missing) <= set(source.whole_views()):
        remedy = f"{options.source} does not have all of them"
    return (
        f"{options.target} will hold {views_named(there)} of {source.identity.name}. {coverage.rule()}, so it takes "
        f"{coverage.describe()} until {lack}: {remedy}. verify and inspect work without them."
    )


def _with_any(entries: list[Entry], wanted: range, options: CopyOptions, progress: Progress) -> list[Entry]:
    """Return the entries that have some of the wanted views; warn about views that are missing.

    Raises UsageError if no entry has any of them.
    """
    if options.views is None:
        return entries
    found, missing = [], []
    for entry in entries:
        views = [view for view in entry.views() if entry.surely_listed(view)]
        has = f"{entry.identity.name} has {views_named(views) if views else 'no view'}"
        if not any(view in wanted for view in views):
            missing.append(f"{has}, and none of {options.views}")
            continue
        found.append(entry)
        absent = set(wanted) - set(views)
        if absent and wanted.stop < VIEW_CAPACITY:
            missing.append(f"{has}, and not {views_named(absent)}")
    if not found:
        raise UsageError(
            f"There is nothing to copy from {options.source}: {'; '.join(missing)}. Choose --views among those that "
            "exist, or leave it out for all."
        )
    if missing:
        progress.warn(f"Not all requested views are in {options.source}: {'; '.join(missing)}.")
    return found


def _copied(work: list[Work], claims: Claims) -> Iterator[int | SourceError | None]:
    """Copy blocks with `copy_block`; yield its result for each, or the error of a block of the source.

    Blocks that other processes have claimed come last.
    """
    while work:
        left = []
        for entry, there, view, block in work:
            claim = block_claim(entry.identity.name, view, block)
            if not claims.take(claim):
                left.append((entry, there, view, block))
                continue
            try:
                found: int | SourceError | None = copy_block(entry, there, view, block)
            except SourceError as error:
                found = error
            finally:
                claims.release(claim)
            yield found
        if left and len(left) == len(work):
            time.sleep(PAUSE)
        work = left


def parse_views(text: str | None) -> range:
    """Parse a range of views: "0:50", ":50", "10:", or "7" for one. Raises UsageError for anything else."""
    if text is None:
        return range(VIEW_CAPACITY)
    found = re.fullmatch(r"(\d*):(\d*)|(\d+)", text.strip())
    if found is None:
        raise UsageError(f"--views {text!r} is no range: give one such as 0:50, which ends before view 50.")
    if found[3] is not None:
        return range(int(found[3]), int(found[3]) + 1)
    views = range(int(found[1] or 0), int(found[2] or VIEW_CAPACITY))
    if not views:
        raise UsageError(f"--views {text!r} is empty: the second number must be larger than the first.")
    return views


def _entries(source: Cache, requested: tuple[str, ...]) -> tuple[list[Entry], dict[str, SourceError]]:
    """Return the entries to copy, and the errors of others that cannot be read, by name.

    Raises CacheError if an entry that was named cannot be read, or no entry at all.
    """
    there = source.names()
    if not there:
        raise UsageError(f"The cache {source.location} holds no teacher's targets: there is nothing to copy.")
    for name in requested:
        if name not in there:
            raise UsageError(f"The cache {source.location} holds no teacher {name!r}; it holds {', '.join(there)}.")
    entries: list[Entry] = []
    left_out: dict[str, SourceError] = {}
    for name in dict.fromkeys(requested) or there:
        try:
            entry = source.entry(name)
            for view in entry.views():
                entry.surely_listed(view)
            entries.append(entry)
        except CacheError as error:
            if requested or len(there) == 1:
                raise
            left_out[name] = SourceError(str(error), damaged=not isinstance(error, UnreadableError))
    if not entries:
        raise CacheError(
            f"No teacher of the cache {source.location} can be copied. {' '.join(map(str, left_out.values()))}"
        )
    return entries, left_out
