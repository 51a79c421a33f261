"""`kdcache inspect`: what a cache holds, and what the answers in it look like."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.data.index import Index, open_index
from kdcache.jobs.looks import Looks, look_at
from kdcache.jobs.opening import OpenViews, stored_views
from kdcache.jobs.wording import ranges, readable
from kdcache.progress import Progress, silent
from kdcache.views.policies import describe_policy
from kdcache.views.policy import Policy
from kdcache.views.viewset import Span

#: Pairs of classes that are told.
PAIRS = 5


@dataclass(frozen=True)
class InspectRequest:
    """What `inspect` was asked for.

    Attributes:
        data: shards, for what needs labels; None does without.
        samples: about how many answers of each teacher are looked at, spread evenly over what is there.
    """

    cache: str
    data: str | None = None
    samples: int = 100_000


@dataclass(frozen=True)
class Pair:
    """Two classes that are taken for each other, and how often, of all answers looked at.

    With labels: the label and the likeliest class; without, the likeliest class and the next.
    """

    classes: tuple[int, int]
    names: tuple[str, str] | None
    share: float


@dataclass(frozen=True)
class Answers:
    """Means over the answers that were looked at; see `Looks` for what they are means of.

    Attributes:
        top1: share of answers whose likeliest class is the label that holds most of the picture; None without labels.
        pairs: the most frequent, the first the most.
    """

    looked_at: int
    top: float
    kept: float
    covered: float
    entropy: float
    hidden: float
    top1: float | None
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class TeacherReport:
    """A teacher's entry.

    Attributes:
        identity: its JSON form.
        complete: views that have every block.
        missing: of the other views that were begun, the blocks that are not recorded.
        array_bytes: of all recorded blocks, by array, and of the records.
        stored_answers: rows of all recorded blocks.
        kl: mean KL divergence, in nats, of stored answers from the teacher's, as measured when they were stored; None
            where it was not.
        provenance: each way in which blocks were made, and how many blocks.
        answers: None where no block is recorded.
    """

    identity: dict[str, Any]
    complete: tuple[int, ...]
    missing: dict[int, tuple[int, ...]]
    array_bytes: dict[str, int]
    stored_answers: int
    kl: float | None
    provenance: tuple[tuple[dict[str, Any], int], ...]
    answers: Answers | None

    def lines(self) -> list[str]:
        """The entry as plain lines."""
        who = self.identity
        targets = ", ".join(f"{name} {value}" for name, value in who["targets"].items())
        total = sum(self.array_bytes.values())
        lines = [
            f"teacher {who['name']}: {who['architecture']}, {who['num_classes']:,} classes, {who['size']} pixels, "
            f"{who['precision']}, batches of {who['batch_size']}, weights {who['weights'][:12]}",
            f"  keeps      {targets}; label space {who.get('label_space', 'teacher')}",
            f"  complete   {len(self.complete)} views: {ranges(self.complete) or 'none'}",
        ]
        for view, blocks in list(self.missing.items())[:PAIRS]:
            lines.append(f"  missing    view {view}: blocks {ranges(blocks)}")
        if len(self.missing) > PAIRS:
            lines.append(f"  missing    ... and blocks of {len(self.missing) - PAIRS} other views")
        if self.stored_answers:
            each = ", ".join(f"{name} {size / self.stored_answers:.2f}" for name, size in self.array_bytes.items())
            lines.append(f"  bytes      {total / self.stored_answers:.2f} a view ({each}); {readable(total)} in all")
        if self.kl is not None:
            lines.append(f"  error      {self.kl:.3g} nats: the mean KL of what is stored from what the teacher said")
        for made, count in self.provenance:
            lines.append(f"  made with  {', '.join(f'{key} {value}' for key, value in made.items())} ({count} blocks)")
        return lines + (self._answer_lines(self.answers) if self.answers is not None else [])

    def _answer_lines(self, answers: Answers) -> list[str]:
        lines = [
            f"  answers    {answers.looked_at:,} looked at: {answers.kept:.1f} classes kept, which hold "
            f"{answers.covered:.2%}; top-1 {answers.top:.3f}; entropy {answers.entropy:.3f} nats",
            f"             what the tail hides is at most {answers.hidden:.4f} nats of KL in the mean",
        ]
        if answers.top1 is not None:
            lines.append(f"  labels     top-1 is the label for {answers.top1:.2%}")
        for pair in answers.pairs:
            one, other = pair.names or tuple(map(str, pair.classes))
            taken = f"{one} taken for {other}" if answers.top1 is not None else f"{one}, then {other}"
            lines.append(f"  confused   {pair.share:.2%}: {taken}")
        return lines


@dataclass(frozen=True)
class InspectReport:
    """A cache.

    Attributes:
        view_set: its JSON form.
        policy: in words.
        once_bytes: of what is stored once, by name.
    """

    cache: str
    view_set: dict[str, Any]
    policy: str
    once_bytes: dict[str, int]
    teachers: tuple[TeacherReport, ...]

    def lines(self) -> list[str]:
        """The report as plain lines."""
        views = self.view_set
        blocks = -(-views["samples"] // views["block_rows"])
        once = ", ".join(f"{name} {readable(size)}" for name, size in self.once_bytes.items())
        lines = [
            f"{self.cache}: format {views['format']}, {views['samples']:,} samples a view in {blocks:,} blocks of "
            f"{views['block_rows']:,} rows",
            f"  views      {self.policy}",
            f"  samples    fingerprint {views['fingerprint'][:16]}",
            f"  once       {once}",
        ]
        for teacher in self.teachers:
            lines += teacher.lines()
        return lines if self.teachers else [*lines, "no teacher yet"]

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return asdict(self)


def inspect(request: InspectRequest, progress: Progress = silent) -> InspectReport:
    """Say what a cache belongs to, what it holds, and what the answers look like.

    Raises:
        CacheError: it cannot be read, or a block that is looked at is damaged.
        IdentityError: `data` are other samples than the cache's.
    """
    cache = Cache.open(request.cache)
    opened = None
    if request.data is not None:
        opened = stored_views(cache, open_index(request.data, progress=progress))
    teachers = tuple(_teacher(cache.entry(name), request, opened, progress) for name in sorted(cache.teachers()))
    view_set = cache.view_set
    return InspectReport(
        cache=request.cache,
        view_set=view_set.to_json(),
        policy=describe_policy(Policy.from_json(view_set.policy), view_set.seed),
        once_bytes=cache.once_bytes(),
        teachers=teachers,
    )


def _teacher(entry: Entry, request: InspectRequest, opened: OpenViews | None, progress: Progress) -> TeacherReport:
    listed = {view: entry.listed(view) for view in entry.views()}
    whole = set(range(entry.layout.blocks))
    bytes_by_array: Counter[str] = Counter()
    made: Counter[tuple[tuple[str, str], ...]] = Counter()
    errors: list[float] = []
    for view, blocks in listed.items():
        bytes_by_array.update(entry.stored_bytes(view))
        for block in blocks:
            record = entry.record(view, block)
            made[tuple(sorted((name, str(value)) for name, value in record.provenance.items()))] += 1
            errors += [record.kl] if record.kl is not None else []
    rows = sum(_rows(entry, block) for blocks in listed.values() for block in blocks)
    return TeacherReport(
        identity=entry.identity.to_json(),
        complete=tuple(view for view, blocks in listed.items() if blocks == whole),
        missing={view: tuple(sorted(whole - blocks)) for view, blocks in listed.items() if blocks != whole},
        array_bytes=dict(bytes_by_array),
        stored_answers=rows,
        kl=fmean(errors) if errors else None,
        provenance=tuple((dict(way), count) for way, count in made.most_common()),
        answers=_answers(entry, listed, request.samples, opened, progress) if rows else None,
    )


def _answers(
    entry: Entry, listed: dict[int, set[int]], samples: int, opened: OpenViews | None, progress: Progress
) -> Answers:
    index = opened.view_set.index if opened is not None and entry.identity.label_space == "teacher" else None
    looks, labels = [], []
    chunks = list(_spread(entry, listed, samples))
    total = sum(stop - start for start, stop in (entry.layout.chunk_range(chunk) for _, chunk in chunks))
    with progress.task(f"Looking at {entry.identity.name}", total=total, unit="answers") as task:
        for view, chunk in chunks:
            targets = entry.read_chunk(view, chunk)
            looks.append(look_at(targets))
            if index is not None and opened is not None:
                labels.append(_main_labels(opened, view, *entry.layout.chunk_range(chunk)))
            task.advance(len(targets))
    all_looks = Looks.concat(looks)
    label = torch.from_numpy(np.concatenate(labels)) if labels else None
    labelled = None if label is None or not bool((label >= 0).any()) else label
    return Answers(
        looked_at=len(all_looks.first),
        top=float(all_looks.top.mean()),
        kept=float(all_looks.kept.double().mean()),
        covered=float(all_looks.covered.mean()),
        entropy=float(all_looks.entropy.mean()),
        hidden=float(all_looks.hidden.mean()),
        top1=None if labelled is None else float((all_looks.first == labelled)[labelled >= 0].double().mean()),
        pairs=_pairs(all_looks, labelled, index),
    )


def _pairs(looks: Looks, labels: torch.Tensor | None, index: Index | None) -> tuple[Pair, ...]:
    one, other = (looks.first, looks.second) if labels is None else (labels, looks.first)
    differ = (one != other) & (one >= 0) & (other >= 0)
    pairs, counts = torch.unique(torch.stack([one[differ], other[differ]]), dim=1, return_counts=True)
    names = index.class_names if index is not None else None
    found = []
    for number in counts.argsort(descending=True, stable=True)[:PAIRS].tolist():
        a, b = pairs[:, number].tolist()
        named = (names[a], names[b]) if names is not None and max(a, b) < len(names) else None
        found.append(Pair((a, b), named, int(counts[number]) / len(one)))
    return tuple(found)


def _spread(entry: Entry, listed: dict[int, set[int]], samples: int) -> Iterator[tuple[int, int]]:
    """View and number of chunks that hold about so many rows, evenly over all that is recorded."""
    blocks = [(view, block) for view, recorded in listed.items() for block in sorted(recorded)]
    chunks = [(view, chunk) for view, block in blocks for chunk in entry.layout.chunks_of(block)]
    wanted = min(len(chunks), -(-samples // entry.layout.chunk_rows))
    for place in np.linspace(0, len(chunks) - 1, wanted).round().astype(int):
        yield chunks[place]


def _main_labels(opened: OpenViews, view: int, start: int, stop: int) -> np.ndarray:
    """The label of each row that holds most of its picture."""
    first = start - start % 2  # pairs are mixed: a chunk of one row has half of one
    last = min(stop + stop % 2, len(opened.view_set))
    rows = opened.view_set.rows(Span(view, first, last))
    main = np.where(rows.weight >= 0.5, rows.labels[:, 0], rows.labels[:, 1])
    return main[start - first : stop - first]


def _rows(entry: Entry, block: int) -> int:
    start, stop = entry.layout.block_range(block)
    return stop - start
