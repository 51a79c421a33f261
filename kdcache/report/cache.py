"""What a page shows of a cache: coverage, statistics of its targets, and its bytes."""

from dataclasses import dataclass
from statistics import fmean

from kdcache.errors import printable
from kdcache.inspection.contents import InspectReport, TeacherReport
from kdcache.report.parts import Bar, Table, evenly
from kdcache.report.runs import text_of
from kdcache.runtime.formatting import format_bytes, format_count, format_ranges

#: Views whose errors are drawn, and blocks whose errors are listed.
MOST_VIEWS, MOST_BLOCKS = 20, 10


@dataclass(frozen=True)
class TeacherSection:
    """What a page shows of one teacher of a cache.

    Attributes:
        coverage: bars of the views: complete, and with some blocks missing, damaged or unread.
        bytes: bars of the bytes by array.
        kl: bars of the mean error of the targets by view, with the least and the largest of its blocks.
        kl_blocks: the blocks with the largest errors; None where none was measured.
        confused: pairs of classes that the teacher confuses, in phrases.
    """

    name: str
    facts: Table
    coverage: tuple[Bar, ...]
    bytes: tuple[Bar, ...]
    kl: tuple[Bar, ...]
    kl_blocks: Table | None
    confused: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class CacheSection:
    """What a page shows of a cache.

    Attributes:
        lines: the whole report of `kdcache inspect`, as it prints it.
    """

    facts: Table
    teachers: tuple[TeacherSection, ...]
    problems: tuple[str, ...]
    lines: tuple[str, ...]


def cache_section(report: InspectReport) -> CacheSection:
    """Return the section about a cache."""
    views = report.view_set
    rows = [
        ("place", text_of(report.cache)),
        ("views", printable(report.policy)),
        ("samples a view", f"{views['samples']:,}"),
        ("format", text_of(views["format"])),
        ("fingerprint of the samples", text_of(views["fingerprint"])[:16]),
        *((f"{name}, stored once", format_bytes(size)) for name, size in report.once_bytes.items()),
        *([("lost", format_count(report.lost, "sample"))] if report.lost else []),
    ]
    warning = (printable(report.format_warning),) if report.format_warning else ()
    problems = tuple(printable(f"{name} cannot be read: {problem}") for name, problem in report.problems.items())
    return CacheSection(
        facts=Table("The cache", ("", "value"), tuple((name, value) for name, value in rows)),
        teachers=tuple(_teacher(teacher, _blocks(report)) for teacher in report.teachers),
        problems=(*warning, *problems),
        lines=tuple(map(printable, report.lines())),
    )


def _blocks(report: InspectReport) -> int:
    return int(-(-report.view_set["samples"] // report.view_set["block_rows"]))


def _teacher(teacher: TeacherReport, blocks: int) -> TeacherSection:
    identity = teacher.identity
    rows = [
        (
            "network",
            f"{text_of(identity['architecture'])}, {identity['num_classes']:,} classes, {identity['size']} pixels",
        ),
        ("targets", ", ".join(f"{text_of(name)} {text_of(value)[:12]}" for name, value in identity["targets"].items())),
        ("complete views", f"{len(teacher.complete):,}: {format_ranges(teacher.complete) or 'none'}"),
        ("targets stored", f"{teacher.stored_targets:,}"),
        ("bytes", format_bytes(sum(teacher.array_bytes.values()))),
    ]
    if teacher.kl is not None:
        rows.append(("error of the targets", f"{teacher.kl:.3g} nats of KL in the mean"))
    if (found := teacher.statistics) is not None:
        rows += [
            ("targets read for the next lines", f"{found.looked_at:,}"),
            ("entropy", f"{found.entropy:.3f} nats in the mean"),
            ("probability of the likeliest class", f"{found.top:.2%} in the mean"),
            ("classes kept", f"{found.kept:,.1f} in the mean, with a mass of {found.covered:.2%}"),
        ]
        if found.top1 is not None:
            rows.append(("likeliest class is the label", f"{found.top1:.2%}"))
    return TeacherSection(
        name=text_of(identity["name"]),
        facts=Table(f"Teacher {text_of(identity['name'])}", ("", "value"), tuple(rows)),
        coverage=_coverage(teacher, blocks),
        bytes=_bytes(teacher),
        kl=_kl_by_view(teacher),
        kl_blocks=_kl_by_block(teacher),
        confused=tuple(printable(pair.describe()) for pair in found.pairs) if found is not None else (),
        problems=tuple(map(printable, teacher.problems[:20])),
    )


def _coverage(teacher: TeacherReport, blocks: int) -> tuple[Bar, ...]:
    """Return a bar for the blocks of all views that were begun: those that are there, and each kind of others."""
    total = teacher.begun * blocks
    if not total:
        return ()
    others = {
        name: sum(map(len, found.values()))
        for name, found in (("missing", teacher.missing), ("damaged", teacher.damaged), ("unread", teacher.unread))
    }
    counts = {"there": max(0, total - sum(others.values())), **{name: n for name, n in others.items() if n}}
    return tuple(Bar(name, count / total, format_count(count, "block")) for name, count in counts.items())


def _kl_by_view(teacher: TeacherReport) -> tuple[Bar, ...]:
    """Return a bar for the mean error of each view, of at most `MOST_VIEWS` evenly spread over those that have one."""
    measured = {view: list(blocks.values()) for view, blocks in teacher.block_kl.items() if blocks}
    means = {view: fmean(errors) for view, errors in measured.items()}
    most = max(means.values(), default=0.0) or 1.0
    return tuple(
        Bar(
            f"view {int(view)}",
            means[int(view)] / most,
            f"{means[int(view)]:.3g} nats, blocks {min(measured[int(view)]):.3g} to {max(measured[int(view)]):.3g}",
        )
        for view in evenly(sorted(measured), MOST_VIEWS)
    )


def _kl_by_block(teacher: TeacherReport) -> Table | None:
    """Return the blocks with the largest errors."""
    errors = [(kl, view, block) for view, blocks in teacher.block_kl.items() for block, kl in blocks.items()]
    if not errors:
        return None
    largest = sorted(errors, key=lambda error: (-error[0], error[1:]))[:MOST_BLOCKS]
    rows = tuple((f"view {view}, block {block}", f"{kl:.3g}") for kl, view, block in largest)
    note = (
        f"{len(largest)} of {format_count(len(errors), 'block')}. The error is the KL of the stored targets from the "
        "teacher's outputs over the first batch of a block, measured when it was written."
    )
    return Table("Blocks with the largest error of the targets", ("block", "KL in nats"), rows, (note,))


def _bytes(teacher: TeacherReport) -> tuple[Bar, ...]:
    most = max(teacher.array_bytes.values(), default=0)
    if not most:
        return ()
    ordered = sorted(teacher.array_bytes.items(), key=lambda item: -item[1])
    each = max(1, teacher.stored_targets)
    return tuple(
        Bar(text_of(name), size / most, f"{format_bytes(size)}, {size / each:,.2f} bytes a target")
        for name, size in ordered
    )
