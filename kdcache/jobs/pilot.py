"""What a dump must know of a teacher's answers before it stores the first: which classes it takes for each other."""

from contextlib import closing
from dataclasses import replace
from itertools import chain, islice

from kdcache.jobs.answers import block_count
from kdcache.jobs.filling import Source
from kdcache.progress import Progress
from kdcache.targets.base import MAX_TABLE_BYTES, Coding, Targets
from kdcache.targets.order_learning import learn_order, pilot_rows
from kdcache.targets.topk import TopKTargets
from kdcache.targets.topk_coding import TopKCoding


def wants_order(coding: Coding) -> bool:
    """Whether a coding has yet to be given an order of classes.

    Of two classes there is nothing to sort, and of more than some 250,000 the table would be larger than a cache takes.
    """
    if not isinstance(coding, TopKCoding) or coding.order is not None or coding.num_classes <= 2:
        return False
    return all(spec.nbytes <= MAX_TABLE_BYTES for spec in coding.table_specs().values())


def learned_coding(source: Source, progress: Progress) -> Coding:
    """The coding with an order learned from the first `pilot_rows` rows of view 0, in whole batches of the dump's.

    So a dump that is killed before its entry is there learns the same order again.
    """
    rows = min(pilot_rows(source.coding.num_classes), source.samples)
    batches = chain.from_iterable(
        source.batches(0, block) for block in range(block_count(source.samples, source.block_rows))
    )
    parts: list[Targets] = []
    with (
        progress.task(f"the order of {source.coding.num_classes:,} classes, from the first views", total=rows) as task,
        closing(source.answers(islice(batches, -(-rows // source.teacher.batch_size)))) as answers,
    ):
        for _, answered in answers:
            parts.append(answered.targets)
            task.advance(min(len(answered.targets), rows - sum(map(len, parts[:-1]))))
    return with_order(source, parts)


def with_order(source: Source, parts: list[Targets]) -> Coding:
    """The coding with an order learned from these answers and the teacher's classifier."""
    assert isinstance(source.coding, TopKCoding)
    answers = type(parts[0]).concat(parts)
    assert isinstance(answers, TopKTargets)
    return replace(source.coding, order=learn_order(answers, source.teacher.class_vectors))
