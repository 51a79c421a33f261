"""The report of `kdcache verify`."""

from dataclasses import dataclass
from typing import Any

from kdcache.cache.coverage import MissingViews
from kdcache.cache.repair import Repairs
from kdcache.cache.verify import Finding
from kdcache.inspection.rerun import Comparison
from kdcache.runtime.formatting import format_count

#: Number of findings that the report lists; the JSON form lists all.
SHOWN = 20


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        teachers: names of the teachers that were read.
        blocks, targets: number of blocks that were read, each with all of its chunks, and of their targets.
        findings: everything that differs from what was written, repaired or not.
        repairs: results of --repair; None without it.
        comparison: the targets compared with the teacher's outputs now; None without --teacher.
        failure: reason why the comparison failed; None if it did not.
        missing: blocks that teachers do not have yet; they are missing, not damaged, and the cache is whole.
        format_warning: properties that an older format does not verify; None for the current format.
    """

    cache: str
    teachers: tuple[str, ...]
    blocks: int
    targets: int
    findings: tuple[Finding, ...]
    repairs: Repairs | None = None
    comparison: Comparison | None = None
    failure: str | None = None
    missing: tuple[MissingViews, ...] = ()
    format_warning: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing was found, so that the cache can be used."""
        return not self.findings and (self.comparison is None or self.comparison.agrees)

    @property
    def damaged(self) -> bool:
        """Whether anything is known to differ from what was written.

        A cache that is neither whole nor damaged could not be read completely.
        """
        disagrees = self.comparison is not None and not self.comparison.agrees
        return disagrees or any(not finding.unreadable for finding in self.findings)

    @property
    def dropped(self) -> int:
        """Number of blocks that the next dump has to compute again."""
        return sum("/records/" in key for key in self.repairs.dropped) if self.repairs is not None else 0

    def lines(self) -> list[str]:
        """Return the report as plain lines; the last one is the verdict of the exit code."""
        lines = _some([self._describe(finding) for finding in self.findings])
        lines += self._repair_lines(self.repairs) if self.repairs is not None and self.findings else []
        lines += [views.describe() for views in self.missing]
        lines += [self.format_warning] if self.format_warning is not None else []
        if self.failure is not None:
            lines.append(f"The targets were not compared with the teacher's outputs: {self.failure}")
        lines += self.comparison.lines() if self.comparison is not None else []
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        """Return a sentence on whether the cache can be used."""
        looked = f"{format_count(self.blocks, 'block')} with {format_count(self.targets, 'target')}"
        looked += f" of {', '.join(self.teachers) or 'no teacher'}"
        differs = self.comparison is not None and not self.comparison.agrees
        if not self.findings and differs:
            return (
                f"{self.cache} does NOT hold its teacher's targets, although every byte is what was written: {looked}."
            )
        if not self.findings:
            return f"{self.cache} is whole: {looked}."
        problems = format_count(len(self.findings), "problem")
        unread = sum(finding.unreadable for finding in self.findings)
        if not self.damaged:
            return (
                f"{self.cache} could NOT be verified: {problems} with reading it, and no damage in {looked}. Verify "
                "again when the cause is gone."
            )
        problems += f" ({unread:,} could not be read, and may be undamaged)" if unread else ""
        problems += " in " + looked if self.teachers else ", and no block could be read"
        rewritten = self.repairs.rewritten if self.repairs is not None else []
        is_repaired = all(finding.repair is not None and finding.repair.key in rewritten for finding in self.findings)
        if is_repaired and not differs:
            return f"{self.cache} was NOT whole: {problems}. All of it is repaired: verify again."
        mismatch = ", and its targets do NOT match the teacher's outputs" if differs else ""
        return f"{self.cache} is NOT whole: {problems}{mismatch}."

    def _describe(self, finding: Finding) -> str:
        """Return a finding with the repair that was done, or the remedy."""
        repair, repairs = finding.repair, self.repairs
        after = finding.remedy if repair is None or repairs is None else repairs.done(repair)
        return f"{finding.problem} {after}".rstrip()

    def _repair_lines(self, repairs: Repairs) -> list[str]:
        lines = []
        if repairs.rewritten:
            lines.append(f"Written again as it was: {format_count(len(repairs.rewritten), 'file')}.")
        if repairs.dropped:
            others = len(repairs.dropped) - self.dropped
            what = [format_count(self.dropped, "bad block")] * bool(self.dropped)
            what += [format_count(others, "other bad file")] * bool(others)
            lines.append(f"Dropped: {' and '.join(what)}. Run the same dump-logits again to compute what is missing.")
        if repairs.failed:
            lines.append(f"NOT repaired: {format_count(len(repairs.failed), 'problem')}, and as bad as before.")
            lines += _some(repairs.failed)
        left = sum(finding.repair is None for finding in self.findings)
        if left:
            lines.append(f"Cannot be repaired with --repair: {format_count(left, 'problem')}; each names its remedy.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        repairs = self.repairs
        return {
            "cache": self.cache,
            "whole": self.whole,
            "damaged": self.damaged,
            "teachers": list(self.teachers),
            "blocks": self.blocks,
            "targets": self.targets,
            "findings": [_plain(finding) for finding in self.findings],
            "repairs": None
            if repairs is None
            else {"rewritten": repairs.rewritten, "dropped": repairs.dropped, "failed": repairs.failed},
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "failure": self.failure,
            "format_warning": self.format_warning,
            "missing": {
                views.teacher: {"blocks": views.blocks, "usable_views": views.coverage.usable} for views in self.missing
            },
        }


def _plain(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values; `repair` is the action of --repair: "drop", "write" or None."""
    repair = finding.repair
    return {
        "problem": finding.problem,
        "remedy": finding.remedy,
        "teacher": finding.teacher,
        "view": finding.view,
        "block": finding.block,
        "unreadable": finding.unreadable,
        "repair": None if repair is None else "drop" if repair.data is None else "write",
    }


def _some(sentences: list[str]) -> list[str]:
    left = len(sentences) - SHOWN
    return sentences[:SHOWN] + ([f"... and {left:,} more; --json lists all."] if left > 0 else [])
