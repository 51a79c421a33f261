"""Which views of a teacher are missing in a cache, and which views a training can use without them.

A training takes views from 0 on without a gap, in whole groups of those that share an order. So a single block that is
not there makes every later view useless until it is made; the blocks of the last views that a dump is at do not.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kdcache.cache.entry import Entry
from kdcache.runtime.formatting import format_count, format_ranges

#: Number of views of which the missing blocks are listed one by one.
SHOWN = 3


@dataclass(frozen=True)
class Coverage:
    """The complete views of an entry, and those of them that a training can use.

    Attributes:
        whole: numbers of the views that have every block, ascending.
        repeats: number of views that share an order and are taken together, of the policy.
    """

    whole: tuple[int, ...]
    repeats: int

    @property
    def usable(self) -> int:
        """The number of usable views: from 0 on without a gap, in whole groups."""
        gap = next((number for number, view in enumerate(self.whole) if number != view), len(self.whole))
        return gap // self.repeats * self.repeats

    @property
    def is_cut(self) -> bool:
        """Whether there are complete groups that cannot be used because of a gap before them."""
        return self.usable < len(self.whole) // self.repeats * self.repeats

    def describe(self) -> str:
        """Return the views that can be used as text, such as `views 0-4 only`."""
        return f"{views_named(range(self.usable))} only" if self.usable else "none of its views"

    def rule(self) -> str:
        """Return the rule by which views are usable, as the beginning of a sentence."""
        groups = f", in groups of {self.repeats}" if self.repeats > 1 else ""
        return f"Training takes views from 0 on without a gap{groups}"


@dataclass(frozen=True)
class MissingViews:
    """The blocks that an entry lacks, up to the last view that was begun.

    Attributes:
        teacher: the entry's name.
        blocks: numbers of the blocks that are not recorded, ascending, by view; complete views are left out.
        layout_blocks: number of blocks of a view.
        coverage: the views that are complete.
    """

    teacher: str
    blocks: Mapping[int, tuple[int, ...]]
    layout_blocks: int
    coverage: Coverage

    def describe(self) -> str:
        """Return as text what is missing, what a training takes until it is there, and what brings it."""
        whole = len(self.coverage.whole)
        takes = f"trainings take {self.coverage.describe()}"
        if self.coverage.is_cut:
            takes += f", of {format_count(whole, 'view')} that {'is' if whole == 1 else 'are'} whole"
        gone = [blocks for blocks in self.blocks.values() if len(blocks) == self.layout_blocks]
        one = len(self.blocks) == 1 and (gone or sum(map(len, self.blocks.values())) == 1)
        it = "it" if one else "them"
        if gone:
            brought = f"dump-logits has made {it}, or kdcache cache copy brought {it}"
        else:
            brought = f"the same dump-logits has made {it}"
        return f"{self.teacher} lacks {self._missing()}: until {brought}, {takes}."

    def _missing(self) -> str:
        views = [view for view, blocks in self.blocks.items() if len(blocks) == self.layout_blocks]
        parts = {view: blocks for view, blocks in self.blocks.items() if len(blocks) < self.layout_blocks}
        texts = [
            f"{'block' if len(blocks) == 1 else 'blocks'} {format_ranges(blocks)} of view {view}"
            for view, blocks in list(parts.items())[:SHOWN]
        ]
        texts += [f"blocks of {format_count(len(parts) - SHOWN, 'other view')}"] if len(parts) > SHOWN else []
        texts += [views_named(views)] if views else []
        return ", ".join(texts[:-1]) + (" and " if texts[1:] else "") + texts[-1]


def missing_views(entry: Entry, repeats: int) -> MissingViews | None:
    """Return what an entry lacks, by the names of its records; None where it lacks nothing, or has no block at all.

    Raises CacheError where the records cannot be listed.
    """
    listed = {view: entry.surely_listed(view) for view in entry.views()}
    begun = [view for view, blocks in listed.items() if blocks]
    if not begun:
        return None
    blocks = set(range(entry.layout.blocks))
    none, up_to = tuple(sorted(blocks)), -(-(begun[-1] + 1) // repeats) * repeats
    missing = {view: tuple(sorted(blocks - listed[view])) if view in listed else none for view in range(up_to)}
    whole = tuple(view for view in range(up_to) if not missing[view])
    missing = {view: numbers for view, numbers in missing.items() if numbers}
    return MissingViews(entry.identity.name, missing, len(blocks), Coverage(whole, repeats)) if missing else None


def views_named(numbers: Collection[int]) -> str:
    """Return views by their numbers, such as `view 3` or `views 0-4, 7`."""
    return f"{'view' if len(numbers) == 1 else 'views'} {format_ranges(numbers)}"
