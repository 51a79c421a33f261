"""The report of `kdcache inspect`."""

from dataclasses import asdict, dataclass, field
from typing import Any

from kdcache.runtime.formatting import format_bytes, format_count, format_ranges

#: Number of problems, and of views with missing blocks, that are listed.
SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """Two classes that the teacher confuses, and how often.

    With labels: the label and another class that is the likeliest, as a share of all targets with a label (`share`) and
    of those with this label (`within`). Without labels: the likeliest class and the next, as a share of all targets.
    """

    classes: tuple[int, int]
    names: tuple[str, str] | None
    share: float
    within: float | None = None

    def describe(self) -> str:
        """Return `cat taken for dog: 1.20% of the targets, 9.80% of those labelled cat`, or `2 and 3 (10.33%)`."""
        one, other = self.names or tuple(map(str, self.classes))
        if self.within is None:
            return f"{one} and {other} ({self.share:.2%})"
        return f"{one} taken for {other}: {self.share:.2%} of the targets, {self.within:.2%} of those labelled {one}"


@dataclass(frozen=True)
class TargetSummary:
    """Means over the targets that were read; `TargetStatistics` explains the fields.

    Attributes:
        looked_at: number of targets that were read.
        views: number of views that they belong to.
        top1: share of targets whose likeliest class is the label with most of the image; None without labels.
        pairs: the most frequently confused classes, in descending order.
    """

    looked_at: int
    views: int
    top: float
    kept: float
    covered: float
    entropy: float
    hidden: float
    top1: float | None
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class TeacherReport:
    """The contents of one teacher's entry.

    Attributes:
        identity: identity of the entry, as JSON values.
        complete: views that have every block, each of them undamaged as far as it was read.
        missing, damaged, unread: blocks of incomplete views that are not recorded, that differ from what was written,
            and that could not be read but may be undamaged; only some blocks are read.
        array_bytes: bytes of all recorded blocks, by array, and of the records.
        stored_targets: number of rows of all recorded blocks.
        problems: a sentence for each block that could not be read; all numbers are without it.
        kl: mean KL divergence in nats of the targets from the teacher's outputs, measured when they were stored; None
            if it was not measured.
        provenance: each combination of software and hardware, and the number of its blocks.
        statistics: statistics of the targets; None if none could be read.
        block_kl: of each view, the KL of those of its blocks where it was measured, by the number of the block.
    """

    identity: dict[str, Any]
    complete: tuple[int, ...]
    missing: dict[int, tuple[int, ...]]
    array_bytes: dict[str, int]
    stored_targets: int
    kl: float | None
    provenance: tuple[tuple[dict[str, Any], int], ...]
    statistics: TargetSummary | None
    problems: tuple[str, ...] = ()
    damaged: dict[int, tuple[int, ...]] = field(default_factory=dict)
    unread: dict[int, tuple[int, ...]] = field(default_factory=dict)
    block_kl: dict[int, dict[int, float]] = field(default_factory=dict)

    @property
    def begun(self) -> int:
        """Number of views with at least one block."""
        return len({*self.complete, *self.missing, *self.damaged, *self.unread})

    def lines(self) -> list[str]:
        """Return the entry as plain lines."""
        identity = self.identity
        details = (f"{name} {str(value)[:12]}" for name, value in identity["targets"].items() if name != "kind")
        targets = f"{identity['targets']['kind']}: {', '.join(details)}"
        total = sum(self.array_bytes.values())
        lines = [
            f"teacher {identity['name']}: {identity['architecture']}, {identity['num_classes']:,} classes, "
            f"{identity['size']} pixels, {identity['precision']}, batches of {identity['batch_size']}, weights "
            f"{identity['weights'][:12]}",
            f"  targets    {targets}; label space {identity.get('label_space', 'teacher')}",
            f"  complete   {format_count(len(self.complete), 'view')}: {format_ranges(self.complete) or 'none'}",
        ]
        for state, found in (("missing", self.missing), ("damaged", self.damaged), ("unread ", self.unread)):
            for view, blocks in list(found.items())[:SHOWN]:
                lines.append(
                    f"  {state}    view {view}: {'block' if len(blocks) == 1 else 'blocks'} {format_ranges(blocks)}"
                )
            if len(found) > SHOWN:
                lines.append(f"  {state}    ... and blocks of {format_count(len(found) - SHOWN, 'other view')}")
        lines += [f"  problem    {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"  problem    ... and {len(self.problems) - SHOWN:,} more; kdcache verify reads all")
        if self.stored_targets:
            each = ", ".join(f"{name} {size / self.stored_targets:,.2f}" for name, size in self.array_bytes.items())
            lines.append(
                f"  bytes      {total / self.stored_targets:,.2f} a view ({each}); {format_bytes(total)} in all"
            )
        if self.kl is not None:
            lines.append(f"  error      {self.kl:.3g} nats: mean KL of the targets from the teacher's outputs")
        for made, count in self.provenance:
            lines.append(
                f"  made with  {', '.join(f'{key} {value}' for key, value in made.items())} "
                f"({format_count(count, 'block')})"
            )
        return lines + (self._summary_lines(self.statistics) if self.statistics is not None else [])

    def _summary_lines(self, statistics: TargetSummary) -> list[str]:
        lines = [
            f"  statistics {statistics.looked_at:,} of {self.stored_targets:,} targets, from "
            f"{format_count(statistics.views, 'view')} of {self.begun:,}",
            f"             {statistics.kept:,.1f} classes kept, with a mass of {statistics.covered:.2%}; the likeliest "
            f"has {statistics.top:.2%}; entropy {statistics.entropy:.3f} nats",
        ]
        if statistics.hidden > 0:
            lines.append(
                f"             the classes in the tail add at most {statistics.hidden:.4f} nats of KL in the mean"
            )
        if statistics.top1 is not None:
            lines.append(f"  labels     top-1 is the label for {statistics.top1:.2%}")
        texts = [pair.describe() for pair in statistics.pairs]
        if statistics.top1 is not None:
            return lines + [f"  confused   {pair}" for pair in texts]
        return lines + ([f"  close      most often likeliest and second: {', '.join(texts)}"] if texts else [])


@dataclass(frozen=True)
class InspectReport:
    """The contents of a cache.

    Attributes:
        view_set: identity of the views, as JSON values.
        policy: description of the policy.
        once_bytes: bytes of arrays that are stored once, by name.
        problems: reason why a teacher cannot be read, by its name; all other fields are without it.
        format_warning: properties that an older format does not verify; None for the current format.
        lost: number of samples whose images were lost when blocks were written.
    """

    cache: str
    view_set: dict[str, Any]
    policy: str
    once_bytes: dict[str, int]
    teachers: tuple[TeacherReport, ...]
    problems: dict[str, str] = field(default_factory=dict)
    format_warning: str | None = None
    lost: int = 0

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        views = self.view_set
        blocks = -(-views["samples"] // views["block_rows"])
        once = ", ".join(f"{name} {format_bytes(size)}" for name, size in self.once_bytes.items())
        lines = [
            f"{self.cache}: format {views['format']}, {format_count(views['samples'], 'sample')} a view in "
            f"{format_count(blocks, 'block')} of {views['block_rows']:,} rows",
            f"  views      {self.policy}",
            f"  samples    fingerprint {views['fingerprint'][:16]}",
            f"  once       {once}",
            *([f"  lost       {format_count(self.lost, 'sample')}, whose pairs training skips"] if self.lost else []),
            *([f"  warning    {self.format_warning}"] if self.format_warning else []),
        ]
        for teacher in self.teachers:
            lines += teacher.lines()
        for name, problem in self.problems.items():
            lines += [f"teacher {name}: cannot be read", f"  problem    {problem}"]
        return lines if self.teachers or self.problems else [*lines, "no teacher yet"]

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return asdict(self)
