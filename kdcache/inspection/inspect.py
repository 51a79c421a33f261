"""`kdcache inspect`: the contents of a cache, and statistics of its targets."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

import numpy as np
import torch

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.data.index import Index, open_index
from kdcache.errors import CacheError, CorruptError, UnreadableError
from kdcache.inspection.contents import InspectReport, Pair, TargetSummary, TeacherReport
from kdcache.inspection.options import InspectOptions as InspectOptions
from kdcache.inspection.sampling import Sample, spread
from kdcache.inspection.statistics import TargetStatistics, compute_statistics
from kdcache.loader.opening import OpenViews, stored_views, with_lost_of
from kdcache.runtime.progress import Progress, logged
from kdcache.views.policies import describe_policy
from kdcache.views.policy import Policy
from kdcache.views.viewset import RowRange

#: Number of confused pairs of classes that are reported.
PAIRS = 5


def inspect(options: InspectOptions, progress: Progress = logged) -> InspectReport:
    """Report the views of a cache, its contents, and statistics of its targets.

    A block that is damaged or cannot be read is listed with the problems of its teacher, and so is a lost table,
    without which no target can be read. A teacher that cannot be read at all is listed with those of the cache.

    Raises:
        CacheError: there is no cache, or data common to all teachers are damaged.
        IdentityError: `data` does not hold the samples of the cache.
    """
    cache = Cache.open(options.cache)
    views_now: Callable[[], OpenViews] | None = None
    if options.data is not None:
        opened = stored_views(cache, open_index(options.data, progress=progress))
        views_now = partial(with_lost_of, opened, cache)
    entries: list[Entry] = []
    teachers: list[TeacherReport] = []
    problems: dict[str, str] = {}
    for name in cache.names():
        try:
            entry, lost = _entry(cache, name)
            teachers.append(_teacher(entry, lost, options, views_now, progress))
            entries.append(entry)
        except CacheError as error:
            problems[name] = str(error)
    view_set = cache.view_set
    return InspectReport(
        cache=options.cache,
        view_set=view_set.to_json(),
        policy=describe_policy(Policy.from_json(view_set.policy), view_set.seed),
        once_bytes=cache.once_bytes(entries),
        teachers=tuple(teachers),
        problems=problems,
        format_warning=cache.format_warning,
        lost=len(cache.lost()),
    )


def _entry(cache: Cache, name: str) -> tuple[Entry, list[str]]:
    """Return a teacher's entry and its lost tables, without which its targets cannot be read.

    Raises CacheError if the entry cannot be opened at all.
    """
    try:
        return cache.entry(name), []
    except CorruptError:
        lost = list(cache.lost_tables(name).values())
        if not lost:
            raise
        return cache.entry(name, tables=False), lost


def _teacher(
    entry: Entry,
    lost: list[str],
    options: InspectOptions,
    views_now: Callable[[], OpenViews] | None,
    progress: Progress,
) -> TeacherReport:
    listed = {view: entry.surely_listed(view) for view in entry.views()}
    whole = set(range(entry.layout.blocks))
    bytes_by_array: Counter[str] = Counter(dict.fromkeys([*entry.codec.arrays(2), "records"], 0))
    made: Counter[tuple[tuple[str, str], ...]] = Counter()
    sound: dict[int, set[int]] = defaultdict(set)
    block_kl: dict[int, dict[int, float]] = defaultdict(dict)
    problems = _Problems(list(lost))
    rows = 0
    for view, block in ((view, block) for view, blocks in listed.items() for block in sorted(blocks)):
        try:
            record = entry.own_record(view, block)
        except CacheError as error:
            problems.note(error, view, block)
            continue
        for file in entry.block_files(view, block):
            bytes_by_array[file.array] += file.length(record.chunks)
        bytes_by_array["records"] += len(record.to_bytes())
        made[tuple(sorted((name, str(value)) for name, value in record.provenance.items()))] += 1
        if record.kl is not None:
            block_kl[view][block] = record.kl
        rows += _rows(entry, block)
        sound[view].add(block)
    samples = [] if lost else spread(entry.layout, sound, options.samples)
    statistics = _statistics(entry, samples, views_now, sound, problems, progress)
    return TeacherReport(
        identity=entry.identity.to_json(),
        complete=tuple(view for view in listed if sound[view] == whole),
        missing={view: tuple(sorted(whole - blocks)) for view, blocks in listed.items() if blocks != whole},
        array_bytes=dict(bytes_by_array),
        stored_targets=rows,
        kl=fmean(kl for blocks in block_kl.values() for kl in blocks.values()) if block_kl else None,
        provenance=tuple((dict(way), count) for way, count in made.most_common()),
        statistics=statistics,
        damaged={view: tuple(sorted(blocks)) for view, blocks in problems.damaged.items()},
        unread={view: tuple(sorted(blocks)) for view, blocks in problems.unread.items()},
        block_kl=dict(block_kl),
        problems=tuple(dict.fromkeys(problems.sentences)),  # all chunks of one file have the same problem
    )


@dataclass
class _Problems:
    """The problems with the blocks of a teacher.

    Attributes:
        sentences: a sentence for each problem.
        damaged, unread: blocks of each view that differ from what was written, and that cannot be read at the moment.
    """

    sentences: list[str]
    damaged: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    unread: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def note(self, error: CacheError, view: int, block: int) -> None:
        """Record the error of a block."""
        self.sentences.append(str(error))
        (self.unread if isinstance(error, UnreadableError) else self.damaged)[view].add(block)


def _statistics(
    entry: Entry,
    samples: list[Sample],
    views_now: Callable[[], OpenViews] | None,
    sound: dict[int, set[int]],
    problems: _Problems,
    progress: Progress,
) -> TargetSummary | None:
    """Return statistics of the samples; note damaged and unreadable ones, and remove their blocks from `sound`.

    Args:
        views_now: returns the data's views with the samples that are lost when it is called; None without data.
    """
    read: list[Sample] = []
    views = set()
    total = sum(sample.stop - sample.start for sample in samples)
    statistics, looked = TargetStatistics.room(total), 0
    with progress.task(f"Reading {entry.identity.name}", total=total, unit="targets") as task:
        for sample in samples:
            task.advance(sample.stop - sample.start)
            try:
                end = looked
                for part in entry.read_parts(sample.view, sample.chunk, sample.rows):
                    end = statistics.put(end, compute_statistics(part))
            except CacheError as error:
                block = entry.layout.block_of(sample.chunk)
                problems.note(error, sample.view, block)
                sound[sample.view].discard(block)
                continue
            looked = end
            views.add(sample.view)
            read.append(sample)
    if not looked:
        return None
    statistics = statistics.until(looked)
    # Only now is it known which samples were lost when the targets were written that have been read.
    opened = views_now() if views_now is not None and entry.identity.label_space == "teacher" else None
    index = None if opened is None else opened.view_set.index
    label = None if opened is None else torch.from_numpy(_main_labels(opened, entry, read))
    labelled = None if label is None or not bool((label >= 0).any()) else label
    return TargetSummary(
        looked_at=len(statistics.first),
        views=len(views),
        top=float(statistics.top.mean()),
        kept=float(statistics.kept.double().mean()),
        covered=float(statistics.covered.mean()),
        entropy=float(statistics.entropy.mean()),
        hidden=float(statistics.hidden.mean()),
        top1=None if labelled is None else float((statistics.first == labelled)[labelled >= 0].double().mean()),
        pairs=_pairs(statistics, labelled, index),
    )


def _pairs(statistics: TargetStatistics, labels: torch.Tensor | None, index: Index | None) -> tuple[Pair, ...]:
    one, other = (statistics.first, statistics.second) if labels is None else (labels, statistics.first)
    known = int((one >= 0).sum())
    differ = (one != other) & (one >= 0) & (other >= 0)
    classes = int(max(one.max(), other.max())) + 1
    # A pair is one number: torch.unique over columns takes kilobytes for each of them.
    pairs, counts = torch.unique(one[differ] * classes + other[differ], return_counts=True)
    names = index.class_names if index is not None else None
    found = []
    for number in counts.argsort(descending=True, stable=True)[:PAIRS].tolist():
        a, b = divmod(int(pairs[number]), classes)
        named = (names[a], names[b]) if names is not None and max(a, b) < len(names) else None
        count = int(counts[number])
        within = None if labels is None else count / int((labels == a).sum())
        found.append(Pair((a, b), named, count / known, within))
    return tuple(found)


def _main_labels(opened: OpenViews, entry: Entry, samples: list[Sample]) -> np.ndarray:
    """Return each row's label with the larger share of the image; -1 in pairs with a lost sample."""
    starts = [entry.layout.chunk_range(sample.chunk)[0] for sample in samples]
    return np.concatenate(
        [
            _labels_of(opened, sample.view, start + sample.start, start + sample.stop)
            for sample, start in zip(samples, starts, strict=True)
        ]
    )


def _labels_of(opened: OpenViews, view: int, start: int, stop: int) -> np.ndarray:
    first = start - start % 2  # pairs are mixed: a chunk of one row holds half a pair
    last = min(stop + stop % 2, len(opened.view_set))
    rows = opened.view_set.rows(RowRange(view, first, last))
    main = np.where(rows.weight >= 0.5, rows.labels[:, 0], rows.labels[:, 1])
    main[opened.view_set.holds_lost(rows.samples)] = -1
    return main[start - first : stop - first]


def _rows(entry: Entry, block: int) -> int:
    start, stop = entry.layout.block_range(block)
    return stop - start
