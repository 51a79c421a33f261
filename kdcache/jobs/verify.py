"""`kdcache verify`: is a cache whole, and does it say what its teacher says?"""

from dataclasses import asdict, dataclass
from typing import Any

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.cache.verify import Finding, check_block, check_cache, check_entry, open_entries
from kdcache.errors import CacheError
from kdcache.jobs.rerun import Comparison, RerunRequest, rerun
from kdcache.progress import Progress, silent

#: Findings that the report names one by one; the JSON form names all.
SHOWN = 20


@dataclass(frozen=True)
class VerifyRequest:
    """What `verify` was asked for.

    Attributes:
        rerun: answers to make again, where data and a teacher were given.
        repair: drop the records of bad blocks, so that the next dump makes these blocks again.
    """

    cache: str
    rerun: RerunRequest | None = None
    repair: bool = False


@dataclass(frozen=True)
class VerifyReport:
    """What was found.

    Attributes:
        teachers, blocks, answers: how many were looked at; each block with all of its chunks.
        findings: everything that is not as it was written.
        repaired: blocks whose records were dropped.
        comparison: with the teacher's answers of now, where they were asked for.
    """

    cache: str
    teachers: tuple[str, ...]
    blocks: int
    answers: int
    findings: tuple[Finding, ...]
    repaired: int
    comparison: Comparison | None

    @property
    def whole(self) -> bool:
        """Whether the cache can be relied on."""
        return not self.findings and (self.comparison is None or self.comparison.agrees)

    def lines(self) -> list[str]:
        """The report as plain lines."""
        looked = f"{self.blocks:,} blocks with {self.answers:,} answers of {', '.join(self.teachers) or 'no teacher'}"
        lines = [finding.problem for finding in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            lines.append(f"... and {len(self.findings) - SHOWN:,} more; --json names all.")
        if self.findings:
            lines.append(f"{self.cache} is NOT whole: {len(self.findings):,} problems in {looked}.")
        else:
            lines.append(f"{self.cache} is whole: {looked}.")
        if self.repaired:
            lines.append(
                f"{self.repaired:,} bad blocks were dropped: run the same dump-logits again to make them anew."
            )
        return lines + (self.comparison.lines() if self.comparison is not None else [])

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "cache": self.cache,
            "whole": self.whole,
            "teachers": list(self.teachers),
            "blocks": self.blocks,
            "answers": self.answers,
            "findings": [asdict(finding) for finding in self.findings],
            "repaired": self.repaired,
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }


def verify(request: VerifyRequest, progress: Progress = silent) -> VerifyReport:
    """Read everything that a cache holds and compare it with what was written.

    Blocks that are not recorded do not exist and are not missed.

    Raises:
        CacheError: there is no cache, it is of a newer format, or something cannot be read.
        KdcacheError: as `rerun` does.
    """
    if not Cache.exists(request.cache):
        raise CacheError(f"There is no cache at {request.cache}: check the path.")
    try:
        cache = Cache.open(request.cache, read_only=not request.repair)
    except CacheError as error:
        return VerifyReport(request.cache, (), 0, 0, (Finding(str(error)),), 0, None)
    findings = list(check_cache(cache))
    entries, closed = open_entries(cache)
    findings += closed
    bad: list[tuple[Entry, int, int]] = []
    blocks = [(entry, view, block) for entry in entries for view in entry.views() for block in entry.listed(view)]
    rows = sum(_rows(entry, block) for entry, _, block in blocks)
    for entry in entries:
        findings += check_entry(cache, entry)
    with progress.task(f"Reading {request.cache}", total=rows, unit="answers") as task:
        for entry, view, block in blocks:
            finding = check_block(entry, view, block)
            if finding is not None:
                findings.append(finding)
                bad.append((entry, view, block))
            task.advance(_rows(entry, block))
    repaired = 0
    if request.repair:
        for entry, view, block in bad:
            entry.drop_record(view, block)
        repaired = len(bad)
    comparison = None
    if request.rerun is not None:
        comparison = rerun(cache, request.rerun, progress)
    names = tuple(entry.identity.name for entry in entries)
    return VerifyReport(request.cache, names, len(blocks), rows, tuple(findings), repaired, comparison)


def _rows(entry: Entry, block: int) -> int:
    start, stop = entry.layout.block_range(block)
    return stop - start
