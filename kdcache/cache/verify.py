"""Whether a cache is whole: every file that belongs to it is what was written, and says what it can say.

An entry without any record may have been begun by a dump that was killed: what it lacks the next dump completes. What
cannot be read is found like what is damaged, and what comes after it is looked at all the same; but it may be sound,
so that no row is given up for it.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial, singledispatch

import torch

from kdcache.cache.entry import Entry
from kdcache.cache.files import Files
from kdcache.cache.identity import TEACHER_NAME
from kdcache.cache.layout import record_key, table_key, teacher_key
from kdcache.cache.metadata import cache_metadata, entry_metadata
from kdcache.cache.repair import Repair, repaired_identity
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import META, group_content, is_metadata
from kdcache.errors import CacheError, CorruptError, UnreadableError
from kdcache.targets.base import SUM_TOLERANCE, Targets
from kdcache.targets.embedding import EmbeddingTargets
from kdcache.targets.full import FullTargets
from kdcache.targets.topk import TopKTargets

#: Blocks in a row that cannot be read, after which the place is taken to be gone: each may cost minutes of trying.
MAX_UNREADABLE = 16

#: Number of log-probabilities that are looked at together.
_TOGETHER = 2**21


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        problem: a sentence that names the file.
        remedy: what to do, unless it was repaired; empty where the problem says it.
        unreadable: whether nobody knows what lies there, as it could not be read: it may be sound.
        teacher, view, block: whose targets are concerned; None where it is not one block's.
        repair: what puts it right, or makes room for the next dump to do so; None where nothing in the cache does.
    """

    problem: str
    teacher: str | None = None
    view: int | None = None
    block: int | None = None
    repair: Repair | None = None
    remedy: str = ""
    unreadable: bool = False

    @classmethod
    def of(cls, error: CacheError, teacher: str | None = None, view: int | None = None) -> "Finding":
        """Return the finding of an error at a place."""
        return cls(str(error), teacher, view, unreadable=isinstance(error, UnreadableError))


def check_identity(files: Files, key: str, teacher: str | None = None, *, search: bool) -> Finding | None:
    """Look at a zarr.json that holds an identity; with `search`, seconds are spent on how to put it right."""
    remedy = (
        "A copy that `kdcache cache copy` made of any part of this cache has the same file. Without one, begin a cache "
        f"with the same dump-logits elsewhere, stop it, and take its {key}; verify with --data and --teacher then "
        "tells whether the targets belong to it."
    )
    where = files.locate(key)
    try:
        data = files.confirm(key, lambda: files.get(key), lambda found: found is not None and _is_group(found, where))
    except UnreadableError as error:
        return Finding(f"{error} If it is lost: {remedy}", teacher, unreadable=True)
    except CacheError as error:
        return Finding(f"{error} If it is lost: {remedy}", teacher)
    if data is None:
        return Finding(f"{where} is missing, and says what everything beside it is. {remedy}", teacher)
    try:
        group_content(data, where)
        return None
    except CacheError as error:
        repaired = repaired_identity(data) if search else None
        hint = " If one byte of it is wrong, --repair finds out which." if not search else ""
        if repaired is not None:
            return Finding(f"{where} was altered: its checksum does not fit.", teacher, repair=Repair(key, repaired))
        return Finding(f"{error}{hint} {remedy}", teacher)


def _is_group(data: bytes, where: str) -> bool:
    """Return whether these are the bytes of a zarr.json that holds a sealed identity."""
    with suppress(CacheError):
        group_content(data, where)
        return True
    return False


def check_cache(cache: Cache) -> Iterator[Finding]:
    """Look at everything that is not a teacher's."""
    yield from _check_metadata(cache, cache_metadata(cache.view_set))
    for read in (lambda: cache.windows, cache.lost):
        try:
            read()
        except CacheError as error:
            yield Finding.of(error)


def entry_names(cache: Cache) -> list[str]:
    """Return the teachers of whom there is more than what an interrupted dump leaves: a folder, or its table alone."""
    found = []
    for name in sorted(cache.files.all_names("teachers")):
        if name == META or not TEACHER_NAME.fullmatch(name):
            continue
        if _is_in(cache, f"{teacher_key(name)}/{META}") or _has_records(cache, name):
            found.append(name)
    return found


def _is_in(cache: Cache, key: str) -> bool:
    return cache.files.confirm(key, lambda: cache.files.size(key)) is not None


def _has_records(cache: Cache, name: str) -> bool:
    """Return whether a teacher has a folder of records of any view."""
    folder = f"{teacher_key(name)}/records"
    return cache.files.confirm(folder, lambda: bool(set(cache.files.names(folder)) - {META}), bool)


def open_entry(cache: Cache, name: str) -> tuple[Entry | None, list[Finding]]:
    """Return a teacher's entry, or what keeps it from being opened; both where only a table is missing."""
    try:
        return cache.entry(name, strict=False), []
    except CacheError as error:
        lost = _lost_tables(cache, name)
        if not any(map(_is_table, lost)):
            return None, lost or [Finding.of(error, name)]
    try:
        return cache.entry(name, strict=False, tables=False), lost
    except CacheError as error:  # the table may be the right one, and the identity wrong: then no table is to go
        return None, [Finding.of(error, name)]


def check_entry(cache: Cache, entry: Entry) -> Iterator[Finding]:
    """Look at what an entry's blocks have in common."""
    name, expected = entry.identity.name, entry_metadata(entry)
    if not _has_records(cache, name):
        expected = {key: data for key, data in expected.items() if cache.files.size(key) is not None}
    for finding in _check_metadata(cache, expected):
        yield replace(finding, teacher=name)


def listed_blocks(entry: Entry) -> tuple[list[tuple[int, int]], list[Finding]]:
    """Return the view and block of everything that is recorded, and what keeps one from knowing."""
    blocks, findings = [], []
    for view in entry.views():
        try:
            blocks += [(view, block) for block in sorted(entry.surely_listed(view))]
        except CacheError as error:
            findings.append(Finding.of(error, entry.identity.name, view))
    return blocks, findings


def check_block(entry: Entry, view: int, block: int) -> Finding | None:
    """Read a listed block whole: its record, every chunk, and the targets. None where all is well.

    What they say is not known where the teacher has lost a table; its bytes are read all the same.
    """
    name = entry.identity.name
    try:
        if _lacks_tables(entry):
            entry.check_bytes(view, block)
            return None
        entry.check_indices(view, block)
        for chunk in entry.layout.chunks_of(block):
            for part in entry.read_parts(view, chunk):
                check_targets(part, entry.identity.num_classes)
    except CorruptError as error:
        return Finding(error.problem, name, view, block, Repair(record_key(name, view, block), None), error.remedy)
    except CacheError as error:
        return Finding(
            f"View {view}, block {block} of teacher '{name}' cannot be read. {error} It may be sound: if it stays so, "
            f"delete the file {entry.files.locate(record_key(name, view, block))}, and the same dump-logits makes it "
            "anew.",
            name,
            view,
            block,
            unreadable=isinstance(error, UnreadableError),
        )
    return None


@singledispatch
def check_targets(targets: Targets, num_classes: int) -> None:
    """Raise CorruptError unless every row is a distribution, in the order in which its kind is kept.

    Of a kind that says nothing else about itself, what it gives as log-probabilities.
    """
    _check_log_probs(targets, num_classes)


@check_targets.register
def _(targets: TopKTargets, num_classes: int) -> None:
    counts = targets.offset.diff()
    rows = targets.rows()
    named = rows * num_classes + targets.class_id
    if len(named.unique()) != len(named):
        raise CorruptError("The targets of a row name a class twice.")
    exceptions = targets.label_prob.nan_to_num(0.0).sum(1)
    kept = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, rows, targets.prob.double())
    parts = (targets.prob, targets.tail, exceptions)
    if not all(bool((part >= 0).all()) for part in parts) or _is_off(kept + targets.tail + exceptions - 1):
        raise CorruptError("The probabilities of a row do not sum to 1.")


@check_targets.register
def _(targets: FullTargets, num_classes: int) -> None:
    """Check the sums before decoding makes them 1: they may differ from 1 by rounding only."""
    if targets.scale is None:
        _check_log_probs(targets, num_classes)
        return
    rows = max(1, _TOGETHER // num_classes)
    for start in range(0, len(targets), rows):
        lowest, step = targets.scale[start : start + rows].split(1, 1)
        total = torch.logsumexp(lowest + targets.stored[start : start + rows] * step, 1)
        if not bool((total.abs() < SUM_TOLERANCE + step[:, 0] / 2).all()):
            raise CorruptError("The probabilities that a row's codes stand for do not sum to 1.")


@check_targets.register
def _(targets: EmbeddingTargets, num_classes: int) -> None:
    """Check the features themselves, as the classifier makes a distribution of any features."""
    if not bool(targets.features().isfinite().all()):
        raise CorruptError("The features of a row hold a value that is NaN or infinite.")


def _check_log_probs(targets: Targets, num_classes: int) -> None:
    rows = max(1, _TOGETHER // num_classes)
    for start in range(0, len(targets), rows):
        _check_sums(targets[start : start + rows].log_probs(num_classes=num_classes))


def _check_sums(log_probs: torch.Tensor) -> None:
    if not bool(log_probs.isfinite().all()):
        raise CorruptError("The targets of a row hold a log-probability that is NaN or infinite.")
    if _is_off(torch.logsumexp(log_probs, 1)):
        raise CorruptError("The probabilities of a row do not sum to 1.")


def _is_off(error: torch.Tensor) -> bool:
    """Return whether any value is far from 0, or no number."""
    return not bool((error.abs() < SUM_TOLERANCE).all())


def _lacks_tables(entry: Entry) -> bool:
    """Return whether an entry was opened without tables that its targets are read with."""
    named = entry.codec.table_specs().keys() & entry.identity.targets.keys()
    return bool(named - entry.codec.tables().keys())


def _is_table(finding: Finding) -> bool:
    """Return whether a table goes alone, and its entry stays."""
    return finding.repair is not None and not finding.repair.key.endswith(META)


def _lost_tables(cache: Cache, name: str) -> list[Finding]:
    """Without blocks an entry may go as a whole; with them its table alone, for the dump to make the same again."""
    try:
        lost = cache.lost_tables(name)
    except CacheError:  # for another reason than a table
        return []
    records = f"{teacher_key(name)}/records"
    views = [view for view in cache.files.all_names(records) if view != META]
    blocks = sum(len(cache.files.all_names(f"{records}/{view}")) for view in views)
    findings = []
    for table, problem in lost.items():
        key = table_key(name, table) if blocks else f"{teacher_key(name)}/{META}"
        findings.append(Finding(f"{problem} Blocks that depend on it: {blocks:,}.", name, repair=Repair(key, None)))
    return findings


def _check_metadata(cache: Cache, expected: dict[str, bytes]) -> Iterator[Finding]:
    """Check what follows from the identities, and so can be written again, whatever became of it."""
    again = "--repair writes it again."
    for key, data in expected.items():
        where = cache.files.locate(key)
        try:
            stored = cache.files.confirm(key, partial(cache.files.get, key), partial(_is_as_written, expected=data))
        except CacheError as error:
            unreadable = isinstance(error, UnreadableError)
            yield Finding(str(error), repair=Repair(key, data), remedy=again, unreadable=unreadable)
            continue
        if stored is None:
            yield Finding(f"{where} is missing.", repair=Repair(key, data), remedy=again)
        elif not is_metadata(stored, data):
            yield Finding(f"{where} is not what was written.", repair=Repair(key, data), remedy=again)


def _is_as_written(stored: bytes | None, expected: bytes) -> bool:
    """Return whether a zarr.json is there with the content that is expected."""
    return stored is not None and is_metadata(stored, expected)
