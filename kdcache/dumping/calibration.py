"""Making a teacher's entry, for which it may have to be known which classes the teacher takes for each other.

That is learned from the first batches of the first block. They are not asked for twice: what is kept of them waits
until the entry is there, and is then written as the beginning of that block. So whoever is killed on the way loses no
more than at any other block, and the order is the same however many processes there are: one of them makes it, the
others wait.
"""

from contextlib import closing
from dataclasses import dataclass, field, replace

from kdcache.cache.claims import Claims, block_claim
from kdcache.cache.entry import Entry
from kdcache.cache.identity import TeacherIdentity
from kdcache.cache.store import Cache
from kdcache.dumping.top1 import Top1
from kdcache.dumping.waiting import Waiting
from kdcache.dumping.worker import FIRST, Source
from kdcache.loader.teacher_views import TeacherBatch
from kdcache.runtime.progress import Progress
from kdcache.targets.base import MAX_TABLE_BYTES, TargetCodec, Targets
from kdcache.targets.class_order_calibration import calibration_rows, learn_order
from kdcache.targets.topk import TopKTargets
from kdcache.targets.topk_codec import TopKCodec
from kdcache.views.viewset import RowRange

#: Classes that answers may have room for which are held until the order is known: some 260 MB of them.
MAX_HELD = 2**25


@dataclass(frozen=True)
class Begun:
    """A teacher's entry, and what has been answered of the first block to make it.

    Attributes:
        answers: the block's first batches, with its claim held; empty where the entry was there.
        top1: of them.
    """

    entry: Entry
    answers: list[TeacherBatch] = field(default_factory=list)
    top1: Top1 = field(default_factory=Top1)


def begin_entry(source: Source, cache: Cache, identity: TeacherIdentity, claims: Claims, progress: Progress) -> Begun:
    """The entry of a teacher, made where there is none, once the order of its classes is known.

    An order that the entry has lost is learned again; CorruptError where it does not come out the same.

    identity: the teacher's, with `source.codec` as it is without an order, or with that of the entry that is there.
    """
    claim, waiting = block_claim(identity.name, *FIRST), Waiting(claims, progress)

    def lacks_order() -> bool:
        return cache.teacher(identity.name) is None or bool(cache.lost_tables(identity.name))

    while wants_order(source.codec) and lacks_order():
        if not claims.take(claim):
            waiting.pause(
                claim, f"the first block, from which the order of {identity.num_classes:,} classes is learned"
            )
            continue
        if lacks_order():
            return _begun_with_order(source, cache, identity, progress)
        claims.release(claim)  # another process has made it since the last look
    codec = source.codec if source.codec.fixed_tables else cache.with_stored_tables(source.codec, identity.name)
    return Begun(cache.add_teacher(replace(identity, targets=codec.identity()), codec))


def wants_order(codec: TargetCodec) -> bool:
    """Whether a codec has yet to be given an order of classes.

    Of two classes there is nothing to sort, and of more than some 250,000 the table would be larger than a cache takes.
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
    """The codec with an order learned from these answers and the teacher's classifier."""
    assert isinstance(source.codec, TopKCodec)
    answers = type(parts[0]).concat(parts)
    assert isinstance(answers, TopKTargets)
    return replace(source.codec, order=learn_order(answers, source.teacher.class_vectors))


def _begun_with_order(source: Source, cache: Cache, identity: TeacherIdentity, progress: Progress) -> Begun:
    batches = calibration_batches(source)
    rows = sum(span.stop - span.start for span in batches)
    answers: list[TeacherBatch] = []
    top1 = Top1()
    title = f"the order of {identity.num_classes:,} classes, from the first views"
    with progress.task(title, total=rows) as task, closing(source.answers(batches)) as answered_views:
        for views, answered in answered_views:
            top1.count(views, answered)
            answers.append(answered)
            task.advance(len(answered.targets))
    codec = with_order(source, [answered.targets for answered in answers])
    return Begun(cache.add_teacher(replace(identity, targets=codec.identity()), codec), answers, top1)
