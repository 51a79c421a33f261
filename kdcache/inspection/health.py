"""What `kdcache verify` reports."""

from dataclasses import dataclass
from typing import Any

from kdcache.cache.coverage import MissingViews
from kdcache.cache.repair import Repairs
from kdcache.cache.verify import Finding
from kdcache.inspection.rerun import Comparison
from kdcache.runtime.formatting import format_count

#: Findings that the report names one by one; the JSON form names all.
SHOWN = 20


@dataclass(frozen=True)
class VerifyReport:
    """What was found.

    Attributes:
        teachers, blocks, answers: how many were looked at; each block with all of its chunks.
        findings: everything that is not as it was written, repaired or not.
        repairs: what became of them; None where none were asked for.
        comparison: with the teacher's answers of now, where they were asked for.
        failure: why there is none all the same.
        lacking: what teachers have not; it is not there to be damaged, and the cache is whole without it.
        format_warning: what the format of the cache does not prove; None where it is that of today.
    """

    cache: str
    teachers: tuple[str, ...]
    blocks: int
    answers: int
    findings: tuple[Finding, ...]
    repairs: Repairs | None = None
    comparison: Comparison | None = None
    failure: str | None = None
    lacking: tuple[MissingViews, ...] = ()
    format_warning: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing was found, so that the cache can be relied on."""
        return not self.findings and (self.comparison is None or self.comparison.agrees)

    @property
    def damaged(self) -> bool:
        """Whether something is known not to be as it was written; else all that keeps it from being whole is unknown,
        as it could not be read."""
        disagrees = self.comparison is not None and not self.comparison.agrees
        return disagrees or any(not finding.unreadable for finding in self.findings)

    @property
    def dropped(self) -> int:
        """Blocks that the next dump has to make again."""
        return sum("/records/" in key for key in self.repairs.dropped) if self.repairs is not None else 0

    def lines(self) -> list[str]:
        """The report as plain lines; the last says what the exit code says."""
        lines = _some([self._words(finding) for finding in self.findings])
        lines += self._repair_lines(self.repairs) if self.repairs is not None and self.findings else []
        lines += [missing.describe() for missing in self.lacking]
        lines += [self.format_warning] if self.format_warning is not None else []
        if self.failure is not None:
            lines.append(f"The answers were not compared with the teacher's: {self.failure}")
        lines += self.comparison.lines() if self.comparison is not None else []
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        """Whether the cache can be relied on, in a sentence."""
        looked = f"{format_count(self.blocks, 'block')} with {format_count(self.answers, 'answer')}"
        looked += f" of {', '.join(self.teachers) or 'no teacher'}"
        differs = self.comparison is not None and not self.comparison.agrees
        if not self.findings and differs:
            return (
                f"{self.cache} does NOT hold its teacher's answers, although every byte is what was written: {looked}."
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
        problems += f" ({unread:,} of what could not be read, and may be sound)" if unread else ""
        problems += " in " + looked if self.teachers else ", and no block to look at"
        rewritten = self.repairs.rewritten if self.repairs is not None else []
        mended = all(finding.repair is not None and finding.repair.key in rewritten for finding in self.findings)
        if mended and not differs:
            return f"{self.cache} was NOT whole: {problems}. All of it is put right: verify again."
        answers = ", and its answers are NOT the teacher's" if differs else ""
        return f"{self.cache} is NOT whole: {problems}{answers}."

    def _words(self, finding: Finding) -> str:
        """A finding with what was done about it, or else is to be done."""
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
            lines.append(f"Dropped: {' and '.join(what)}. Run the same dump-logits again to make anew what is missing.")
        if repairs.failed:
            lines.append(f"NOT repaired: {format_count(len(repairs.failed), 'problem')}, and as bad as before.")
            lines += _some(repairs.failed)
        left = sum(finding.repair is None for finding in self.findings)
        if left:
            lines.append(
                f"Not for --repair to put right: {format_count(left, 'problem')}; what to do stands with each."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        repairs = self.repairs
        return {
            "cache": self.cache,
            "whole": self.whole,
            "damaged": self.damaged,
            "teachers": list(self.teachers),
            "blocks": self.blocks,
            "answers": self.answers,
            "findings": [_plain(finding) for finding in self.findings],
            "repairs": None
            if repairs is None
            else {"rewritten": repairs.rewritten, "dropped": repairs.dropped, "failed": repairs.failed},
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "failure": self.failure,
            "format_warning": self.format_warning,
            "lacking": {
                missing.teacher: {"blocks": missing.blocks, "usable_views": missing.coverage.usable}
                for missing in self.lacking
            },
        }


def _plain(finding: Finding) -> dict[str, Any]:
    """`repair`: what --repair does about it."""
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
    return sentences[:SHOWN] + ([f"... and {left:,} more; --json names all."] if left > 0 else [])
