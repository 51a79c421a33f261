"""Creation of a teacher's entry, with the calibration of the class order that some codecs need.

The order is learned from the first batches of the first block. The teacher computes these batches only once: their
targets are held until the entry exists, and are then written as the beginning of the block. So a process that is killed
during calibration loses at most one block, as at any other time. The order does not depend on the number of processes:
one of them learns it while the others wait.
"""

from contextlib import closing
from dataclasses import dataclass, field, replace

from kdcache.cache.claims import Claims, block_claim
from kdcache.cache.entry import Entry
from kdcache.cache.identity import TeacherIdentity
from kdcache.cache.store import Cache
from kdcache.dumping.pipeline import TeacherBatch
from kdcache.dumping.top1 import Top1
from kdcache.dumping.waiting import Waiting
from kdcache.dumping.worker import FIRST, Source
from kdcache.runtime.progress import Progress
from kdcache.targets.base import MAX_TABLE_BYTES, TargetCodec, Targets
from kdcache.targets.class_order_calibration import calibration_rows, learn_order
from kdcache.targets.topk import TopKTargets
from kdcache.targets.topk_codec import TopKCodec
from kdcache.views.viewset import RowRange

#: Limit on rows times classes of the targets that are held until the order is known: about 260 MB.
MAX_HELD = 2**25


@dataclass(frozen=True)
class StartedEntry:
    """A teacher's entry, and the outputs for the first block that were computed to create it.

    Attributes:
        outputs: the first batches of the block, whose claim is held; empty if the entry existed before.
        top1: count of the labels that these batches predict.
    """

    entry: Entry
    outputs: list[TeacherBatch] = field(default_factory=list)
    top1: Top1 = field(default_factory=Top1)


def start_entry(
    source: Source, cache: Cache, identity: TeacherIdentity, claims: Claims, progress: Progress
) -> StartedEntry:
    """Return the entry of a teacher; create it, with the order of its classes, if it does not exist.

    If the table with the order is lost, the order is learned again; CorruptError if it differs from the lost one.

    identity: the teacher's, with `source.codec` without an order, or with the order of the existing entry.
    """
    claim, waiting = block_claim(identity.name, *FIRST), Waiting(claims, progress)

    def needs_order() -> bool:
        return cache.teacher(identity.name) is None or bool(cache.lost_tables(identity.name))

    while wants_order(source.codec) and needs_order():
        if not claims.take(claim):
            waiting.pause(
                claim, f"the first block, from which the order of {identity.num_classes:,} classes is learned"
            )
            continue
        if needs_order():
            return _start_with_order(source, cache, identity, progress)
        claims.release(claim)  # another process has created it since the last check
    codec = source.codec if source.codec.fixed_tables else cache.with_stored_tables(source.codec, identity.name)
    return StartedEntry(cache.add_teacher(replace(identity, targets=codec.identity()), codec))


def wants_order(codec: TargetCodec) -> bool:
    """Return whether a codec needs an order of classes and has none.

    Two classes need no order, and for more than about 250,000 the table would exceed the limit of a cache.
    """
    if not isinstance(codec, TopKCodec) or codec.order is not None or codec.num_classes <= 2:
        return False
    return all(spec.nbytes <= MAX_TABLE_BYTES for spec in codec.table_specs().values())


def calibration_batches(source: Source) -> list[RowRange]:
    """Return the batches that an order is learned from.

    They are the first `calibration_rows` rows of the first block, at most all of it.
    """
    assert isinstance(source.codec, TopKCodec)
    rows = min(calibration_rows(source.codec.num_classes), MAX_HELD // source.codec.width)
    batches = source.batches(*FIRST)
    return batches[: max(1, -(-rows // source.teacher.batch_size))]


def with_order(source: Source, parts: list[Targets]) -> TargetCodec:
    """Return the codec with an order learned from these targets and the teacher's classifier."""
    assert isinstance(source.codec, TopKCodec)
    targets = type(parts[0]).concat(parts)
    assert isinstance(targets, TopKTargets)
    return replace(source.codec, order=learn_order(targets, source.teacher.class_vectors))


def _start_with_order(source: Source, cache: Cache, identity: TeacherIdentity, progress: Progress) -> StartedEntry:
    batches = calibration_batches(source)
    rows = sum(row_range.stop - row_range.start for row_range in batches)
    outputs: list[TeacherBatch] = []
    top1 = Top1()
    title = f"the order of {identity.num_classes:,} classes, from the first views"
    with progress.task(title, total=rows) as task, closing(source.outputs(batches)) as computed:
        for batch in computed:
            top1.count(batch)
            outputs.append(batch)
            task.advance(len(batch.targets))
    codec = with_order(source, [batch.targets for batch in outputs])
    return StartedEntry(cache.add_teacher(replace(identity, targets=codec.identity()), codec), outputs, top1)
