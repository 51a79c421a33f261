"""What `kdcache inspect` reports."""

from dataclasses import asdict, dataclass, field
from typing import Any

from kdcache.runtime.formatting import format_bytes, format_count, format_ranges

#: Of problems, and of views that lack blocks, as many are told.
SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """Two classes that the teacher does not keep apart, and how often.

    With labels: the label and another class that is the likeliest, as a share of all answers with a label, and of those
    with this label (`within`). Without: the likeliest class and the next, as a share of all answers looked at.
    """

    classes: tuple[int, int]
    names: tuple[str, str] | None
    share: float
    within: float | None = None

    def words(self) -> str:
        """Such as `cat taken for dog: 1.20% of the answers, 9.80% of those labelled cat`, or `2 and 3 (10.33%)`."""
        one, other = self.names or tuple(map(str, self.classes))
        if self.within is None:
            return f"{one} and {other} ({self.share:.2%})"
        return f"{one} taken for {other}: {self.share:.2%} of the answers, {self.within:.2%} of those labelled {one}"


@dataclass(frozen=True)
class Answers:
    """Means over the answers that were looked at; see `Looks` for what they are means of.

    Attributes:
        views: that they are of.
        top1: share of answers whose likeliest class is the label that holds most of the image; None without labels.
        pairs: the most frequent, the first the most.
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
    """A teacher's entry.

    Attributes:
        identity: its JSON form.
        complete: views that have every block, each of them sound as far as it was looked at.
        missing, damaged, unread: of the other views that were begun, the blocks that are not recorded, those that are
            not what was written, and those that could not be read and may be sound; only some are looked at.
        array_bytes: of all recorded blocks, by array, and of the records.
        stored_answers: rows of all recorded blocks.
        problems: what could not be read, and is left out of all numbers.
        kl: mean KL divergence, in nats, of stored answers from the teacher's, as measured when they were stored; None
            where it was not.
        provenance: each way in which blocks were made, and how many blocks.
        answers: None where there is none to look at.
    """

    identity: dict[str, Any]
    complete: tuple[int, ...]
    missing: dict[int, tuple[int, ...]]
    array_bytes: dict[str, int]
    stored_answers: int
    kl: float | None
    provenance: tuple[tuple[dict[str, Any], int], ...]
    answers: Answers | None
    problems: tuple[str, ...] = ()
    damaged: dict[int, tuple[int, ...]] = field(default_factory=dict)
    unread: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def begun(self) -> int:
        """Views of which there is anything."""
        return len({*self.complete, *self.missing, *self.damaged, *self.unread})

    def lines(self) -> list[str]:
        """The entry as plain lines."""
        who = self.identity
        details = (f"{name} {str(value)[:12]}" for name, value in who["targets"].items() if name != "kind")
        targets = f"{who['targets']['kind']}: {', '.join(details)}"
        total = sum(self.array_bytes.values())
        lines = [
            f"teacher {who['name']}: {who['architecture']}, {who['num_classes']:,} classes, {who['size']} pixels, "
            f"{who['precision']}, batches of {who['batch_size']}, weights {who['weights'][:12]}",
            f"  keeps      {targets}; label space {who.get('label_space', 'teacher')}",
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
            lines.append(f"  problem    ... and {len(self.problems) - SHOWN:,} more; kdcache verify looks at all")
        if self.stored_answers:
            each = ", ".join(f"{name} {size / self.stored_answers:,.2f}" for name, size in self.array_bytes.items())
            lines.append(
                f"  bytes      {total / self.stored_answers:,.2f} a view ({each}); {format_bytes(total)} in all"
            )
        if self.kl is not None:
            lines.append(f"  error      {self.kl:.3g} nats: the mean KL of what is stored from what the teacher said")
        for made, count in self.provenance:
            lines.append(
                f"  made with  {', '.join(f'{key} {value}' for key, value in made.items())} "
                f"({format_count(count, 'block')})"
            )
        return lines + (self._answer_lines(self.answers) if self.answers is not None else [])

    def _answer_lines(self, answers: Answers) -> list[str]:
        lines = [
            f"  answers    {answers.looked_at:,} of {self.stored_answers:,} looked at, from "
            f"{format_count(answers.views, 'view')} of {self.begun:,}",
            f"             {answers.kept:,.1f} classes kept, which hold {answers.covered:.2%}; the likeliest has "
            f"{answers.top:.2%}; entropy {answers.entropy:.3f} nats",
        ]
        if answers.hidden > 0:
            lines.append(f"             what the tail hides is at most {answers.hidden:.4f} nats of KL in the mean")
        if answers.top1 is not None:
            lines.append(f"  labels     top-1 is the label for {answers.top1:.2%}")
        words = [pair.words() for pair in answers.pairs]
        if answers.top1 is not None:
            return lines + [f"  confused   {pair}" for pair in words]
        return lines + ([f"  close      most often likeliest and next: {', '.join(words)}"] if words else [])


@dataclass(frozen=True)
class InspectReport:
    """A cache.

    Attributes:
        view_set: its JSON form.
        policy: in words.
        once_bytes: of what is stored once, by name.
        problems: what keeps a teacher from being read, by its name; it is left out of all else.
        format_warning: what the format of the cache does not prove; None where it is that of today.
        lost: samples whose images were lost when blocks were made.
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
        """The report as plain lines."""
        views = self.view_set
        blocks = -(-views["samples"] // views["block_rows"])
        once = ", ".join(f"{name} {format_bytes(size)}" for name, size in self.once_bytes.items())
        lines = [
            f"{self.cache}: format {views['format']}, {format_count(views['samples'], 'sample')} a view in "
            f"{format_count(blocks, 'block')} of {views['block_rows']:,} rows",
            f"  views      {self.policy}",
            f"  samples    fingerprint {views['fingerprint'][:16]}",
            f"  once       {once}",
            *(
                [f"  lost       {format_count(self.lost, 'sample')}, whose pairs trainings pass over"]
                if self.lost
                else []
            ),
            *([f"  warning    {self.format_warning}"] if self.format_warning else []),
        ]
        for teacher in self.teachers:
            lines += teacher.lines()
        for name, problem in self.problems.items():
            lines += [f"teacher {name}: cannot be read", f"  problem    {problem}"]
        return lines if self.teachers or self.problems else [*lines, "no teacher yet"]

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return asdict(self)
