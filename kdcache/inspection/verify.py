"""`kdcache verify`: checks that a cache is undamaged, and that its targets match its teacher."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from kdcache.cache.claims import block_claim, open_claims
from kdcache.cache.coverage import MissingViews, missing_views
from kdcache.cache.entry import Entry
from kdcache.cache.files import Files
from kdcache.cache.layout import teacher_key
from kdcache.cache.locations import hold_cache, open_files
from kdcache.cache.repair import Repairs
from kdcache.cache.store import Cache
from kdcache.cache.verify import (
    MAX_UNREADABLE,
    Finding,
    check_block,
    check_cache,
    check_entry,
    check_identity,
    entry_names,
    listed_blocks,
    open_entry,
)
from kdcache.cache.zarr_form import META
from kdcache.errors import CacheError, CorruptError, KdcacheError
from kdcache.inspection.health import VerifyReport
from kdcache.inspection.rerun import Comparison, RerunOptions, prepare_rerun, rerun
from kdcache.runtime.progress import Progress, logged
from kdcache.views.policy import Policy


@dataclass(frozen=True)
class VerifyOptions:
    """The options of `verify`.

    Attributes:
        cache: path or URL of the cache.
        rerun: options of the comparison with the teacher; None without one.
        repair: write files again that follow from the identities, and drop damaged blocks, so that the next dump
            computes them again.
    """

    cache: str
    rerun: RerunOptions | None = None
    repair: bool = False


def verify(options: VerifyOptions, progress: Progress = logged) -> VerifyReport:
    """Read a whole cache and compare all bytes with the checksums of what was written.

    Blocks that are not recorded are no findings. Damage and unreadable files are findings of the report, and if there
    are any, so is an error that prevents the comparison with the teacher.

    Raises:
        CacheError: there is no cache.
        KdcacheError: as `prepare_rerun` and `rerun` do, for a cache without findings.
        FolderHeldError: another process repairs it, or copies to it.
    """
    with hold_cache(options.cache, progress.say) if options.repair else nullcontext():
        return _verify(options, progress)


def _verify(options: VerifyOptions, progress: Progress) -> VerifyReport:
    found = _Examination(Repairs(open_files(options.cache) if options.repair else None))
    cache = found.open(open_files(options.cache, read_only=True))
    prepared = comparison = None
    if cache is not None:
        found.check_common_files(cache)
        if options.rerun is not None:
            with found.noting_failure():
                prepared = prepare_rerun(cache, options.rerun, progress)
        found.check_blocks(cache, progress)
    if prepared is not None:
        with found.noting_failure():
            comparison, misfits = rerun(prepared, found.bad, progress)
            found.note(misfits)
    return found.report(options.cache, comparison, None if cache is None else cache.format_warning)


@dataclass
class _Examination:
    """The state of a verification: counts and findings so far.

    bad: teacher, view and block of what is damaged or cannot be read.
    """

    repairs: Repairs
    findings: list[Finding] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    bad: set[tuple[str, int, int]] = field(default_factory=set)
    blocks: int = 0
    targets: int = 0
    failure: str | None = None

    def note(self, findings: Iterable[Finding]) -> None:
        """Record findings, and repair those that can be repaired."""
        for finding in findings:
            self.findings.append(finding)
            if finding.repair is not None:
                self.repairs.make(finding.repair)

    def open(self, files: Files) -> Cache | None:
        """Return the cache, or None if its identity is damaged.

        Raises CacheError if there is no cache, UnreadableError if its location cannot be reached.
        """
        if not files.confirm(META, lambda: files.size(META) is not None or bool(files.names("teachers")), bool):
            raise CacheError(f"There is no cache at {files.locate('')}: check the path.")
        if not self._identified(files, META):
            return None
        try:
            return Cache.open("", files=files)
        except CacheError as error:
            self.note([Finding.of(error)])
            return None

    def check_common_files(self, cache: Cache) -> None:
        """Check everything but the blocks."""
        self.note(check_cache(cache))
        with self._noting():
            for name in entry_names(cache):
                with self._noting(name):
                    if self._identified(cache.files, f"{teacher_key(name)}/{META}", name):
                        entry, findings = open_entry(cache, name)
                        if self.repairs.files is not None and any(finding.repair for finding in findings):
                            entry, findings = open_entry(cache, name)  # a dump may just have put a table back
                        self.note(findings)
                        self.entries += [entry] if entry is not None else []
        for entry in self.entries:
            with self._noting(entry.identity.name):
                self.note(check_entry(cache, entry))

    def check_blocks(self, cache: Cache, progress: Progress) -> None:
        """Check all bytes of every recorded block."""
        todo = []
        for entry in self.entries:
            with self._noting(entry.identity.name):
                listed, findings = listed_blocks(entry)
                self.note(findings)
                todo += [(entry, view, block) for view, block in listed]
        unreadable = 0
        rows = sum(_rows(entry, block) for entry, _, block in todo)
        with progress.task(f"Reading {cache.location}", total=rows, unit="targets") as task:
            for entry, view, block in todo:
                finding = self._check_block(entry, view, block)
                unreadable = unreadable + 1 if finding is not None and finding.repair is None else 0
                if finding is not None:
                    self.bad.add((entry.identity.name, view, block))
                self.blocks, self.targets = self.blocks + 1, self.targets + _rows(entry, block)
                task.advance(_rows(entry, block))
                if unreadable == MAX_UNREADABLE and self.blocks < len(todo):
                    self.note([Finding(_gone(cache, len(todo) - self.blocks), unreadable=True)])
                    break

    def _check_block(self, entry: Entry, view: int, block: int) -> Finding | None:
        """Check a block, and record what is found.

        A repair looks at a damaged block again before it drops it, and has the claim on it meanwhile: else it might
        drop a block that another process, which found it missing, has just made.
        """
        finding = check_block(entry, view, block)
        if finding is None or finding.repair is None or self.repairs.files is None:
            self.note([finding] if finding is not None else [])
            return finding
        name = block_claim(entry.identity.name, view, block)
        with open_claims(self.repairs.files) as claims:
            try:
                is_ours = claims.take(name)
            except CacheError:  # a full disk, on which dropping makes room, or a place where that fails as well
                is_ours = True
            if is_ours:
                finding = _check_again(entry, view, block, finding)
            else:
                holder = claims.holder(name)
                owner = holder.describe() if holder is not None else "Another process holds the claim on it."
                finding = replace(finding, repair=None, remedy=f"It was not dropped. {owner} Verify again later.")
            self.note([finding] if finding is not None else [])
        return finding

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Record an error of the comparison if raising it would lose other findings."""
        try:
            yield
        except KdcacheError as error:
            if isinstance(error, CorruptError):
                if not any(finding.problem.startswith(error.problem) for finding in self.findings):
                    self.note([Finding(str(error))])
            elif not self.findings:
                raise
            self.failure = str(error)

    def report(self, cache: str, comparison: Comparison | None, format_warning: str | None) -> VerifyReport:
        """Return the report."""
        repairs = self.repairs if self.repairs.files is not None else None
        if repairs is not None and repairs.files is not None and self.findings:
            with suppress(CacheError):
                repairs.files.tidy()
        return VerifyReport(
            cache=cache,
            teachers=tuple(entry.identity.name for entry in self.entries),
            blocks=self.blocks,
            targets=self.targets,
            findings=tuple(dict.fromkeys(self.findings)),
            repairs=repairs,
            comparison=comparison,
            failure=self.failure,
            missing=tuple(self._missing()),
            format_warning=format_warning,
        )

    def _missing(self) -> Iterator[MissingViews]:
        """Yield the missing blocks of each entry, including dropped ones."""
        for entry in self.entries:
            with suppress(CacheError):  # records that cannot be listed are among the findings
                found = missing_views(entry, Policy.from_json(entry.view_set.policy).repeats)
                if found is not None:
                    yield found

    def _identified(self, files: Files, key: str, teacher: str | None = None) -> bool:
        """Return whether an identity can be read, after a repair if necessary."""
        finding = check_identity(files, key, teacher, search=self.repairs.files is not None)
        if finding is None:
            return True
        self.note([finding])
        return finding.repair is not None and finding.repair.key in self.repairs.rewritten

    @contextmanager
    def _noting(self, teacher: str | None = None) -> Iterator[None]:
        """Record an error of reading, and continue."""
        try:
            yield
        except CacheError as error:
            self.note([Finding.of(error, teacher)])


def _check_again(entry: Entry, view: int, block: int, finding: Finding) -> Finding | None:
    """Return what a damaged block is found to be now, after other processes may have dropped it or made it anew."""
    entry.forget_records()
    if entry.is_listed(view, block):
        return check_block(entry, view, block)
    return replace(finding, repair=None, remedy="Another process has dropped it; the same dump-logits makes it anew.")


def _gone(cache: Cache, left: int) -> str:
    return (
        f"{MAX_UNREADABLE} blocks in a row cannot be read, so that the other {left:,} were not read. Check the "
        f"disk or the network behind {cache.location}, then verify again."
    )


def _rows(entry: Entry, block: int) -> int:
    start, stop = entry.layout.block_range(block)
    return stop - start
