"""Whether a cache is whole: every file that belongs to it is what was written, and says what it can say.

An entry without any record may have been begun by a dump that was killed: what it lacks the next dump completes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch

import torch

from kdcache.cache.entry import Entry
from kdcache.cache.identity import TEACHER_NAME
from kdcache.cache.layout import teacher_key
from kdcache.cache.metadata import cache_metadata, entry_metadata
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import META, is_metadata
from kdcache.errors import CacheError, CorruptError
from kdcache.targets.base import SUM_TOLERANCE, Targets
from kdcache.targets.full import FullTargets
from kdcache.targets.topk import TopKTargets


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        problem: a sentence that names the file, and what to do.
        teacher, view, block: whose answers are concerned; None where it is not one block's.
    """

    problem: str
    teacher: str | None = None
    view: int | None = None
    block: int | None = None


def check_cache(cache: Cache) -> Iterator[Finding]:
    """Look at everything that is not a teacher's. Raises CacheError where something cannot be read."""
    yield from _check_metadata(cache, cache_metadata(cache.view_set))
    try:
        _ = cache.windows
    except CorruptError as error:
        yield Finding(str(error))


def open_entries(cache: Cache) -> tuple[list[Entry], list[Finding]]:
    """The teachers' entries that can be opened, and what keeps the others from it."""
    entries, findings = [], []
    for name in cache.files.names("teachers"):
        if name == META or not TEACHER_NAME.fullmatch(name) or not cache.files.names(teacher_key(name)):
            continue  # of an entry the making of which was interrupted there may be an empty folder
        meta = f"{teacher_key(name)}/{META}"
        if cache.files.size(meta) is None:
            if not set(cache.files.names(f"{teacher_key(name)}/records")) - {META}:
                continue  # or its table alone
            findings.append(Finding(f"{cache.files.locate(meta)} is missing. Restore it from a copy.", name))
            continue
        try:
            entries.append(cache.entry(name))
        except CacheError as error:
            findings.append(Finding(str(error), name))
    return entries, findings


def check_entry(cache: Cache, entry: Entry) -> Iterator[Finding]:
    """Look at what an entry's blocks have in common."""
    expected = entry_metadata(entry)
    if not any(entry.listed(view) for view in entry.views()):
        expected = {key: data for key, data in expected.items() if cache.files.size(key) is not None}
    for finding in _check_metadata(cache, expected):
        yield Finding(finding.problem, entry.identity.name)


def check_block(entry: Entry, view: int, block: int) -> Finding | None:
    """Read a listed block whole: its record, every chunk, and what the answers say. None where all is well.

    Raises CacheError where something cannot be read, which is no sign of damage.
    """
    try:
        record = entry.record(view, block)
        if record.chunks.keys() != entry.chunk_names(block):
            raise CorruptError(
                f"The record of view {view}, block {block} of teacher '{entry.identity.name}' is another block's."
            )
        for chunk in entry.layout.chunks_of(block):
            check_answers(entry.read_chunk(view, chunk))
    except CorruptError as error:
        return Finding(str(error), entry.identity.name, view, block)
    return None


@singledispatch
def check_answers(targets: Targets) -> None:
    """Raise CorruptError unless every answer is a distribution in the order in which its kind is kept."""
    raise TypeError(f"It is not said what answers kept as {type(targets).__name__} must be.")


@check_answers.register
def _(targets: TopKTargets) -> None:
    counts = targets.offset.diff()
    rows = targets.rows()
    named = rows * targets.num_classes + targets.class_id
    if len(named.unique()) != len(named):
        raise CorruptError("An answer names a class twice.")
    exceptions = targets.label_prob.nan_to_num(0.0).sum(1)
    kept = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, rows, targets.prob.double())
    parts = (targets.prob, targets.tail, exceptions)
    if not all(bool((part >= 0).all()) for part in parts) or _is_off(kept + targets.tail + exceptions - 1):
        raise CorruptError("The probabilities of an answer do not sum to 1.")


@check_answers.register
def _(targets: FullTargets) -> None:
    if _is_off(torch.logsumexp(targets.log_prob, 1)):
        raise CorruptError("The probabilities of an answer do not sum to 1.")


def _is_off(error: torch.Tensor) -> bool:
    """Whether any value is far from 0, or no number."""
    return not bool((error.abs() < SUM_TOLERANCE).all())


def _check_metadata(cache: Cache, expected: dict[str, bytes]) -> Iterator[Finding]:
    for key, data in expected.items():
        stored = cache.files.get(key)
        if stored is None:
            yield Finding(f"{cache.files.locate(key)} is missing. Restore it from a copy.")
        elif not is_metadata(stored, data):
            yield Finding(f"{cache.files.locate(key)} is not what was written. Restore it from a copy.")
