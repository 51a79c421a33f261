"""What a cache's card tells: read from its identities and the records of its blocks, without any target."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.views.policies import describe_policy
from kdcache.views.policy import Policy


@dataclass(frozen=True)
class TeacherFacts:
    """One teacher's entry.

    Attributes:
        identity: as JSON values.
        whole: views that have every block.
        begun: views that have a block, and not all.
        size: bytes of all blocks and their records.
        rows: targets in them.
        kl: mean KL divergence in nats of the stored targets from the teacher's outputs, over the blocks whose record
            has it; None where none has.
        measured, blocks: blocks whose record has it, and all.
    """

    identity: dict[str, Any]
    whole: tuple[int, ...]
    begun: tuple[int, ...]
    size: int
    rows: int
    kl: float | None
    measured: int
    blocks: int


@dataclass(frozen=True)
class CacheFacts:
    """A cache.

    Attributes:
        fingerprint, samples: of the data set.
        policy: description of the policy with its seed, and the policy's fields.
        lost: number of samples whose images were lost.
    """

    fingerprint: str
    samples: int
    policy: str
    policy_fields: dict[str, Any]
    seed: int
    teachers: tuple[TeacherFacts, ...]
    lost: int = 0


def read_facts(cache: Cache) -> CacheFacts:
    """Return what the card of a cache tells. Raises CacheError where a record cannot be read, or is damaged."""
    view_set = cache.view_set
    return CacheFacts(
        fingerprint=view_set.fingerprint,
        samples=view_set.samples,
        policy=describe_policy(Policy.from_json(view_set.policy), view_set.seed),
        policy_fields=view_set.policy,
        seed=view_set.seed,
        teachers=tuple(_teacher(cache.entry(name, strict=False, tables=False)) for name in cache.names()),
        lost=len(cache.lost()),
    )


def _teacher(entry: Entry) -> TeacherFacts:
    listed = {view: sorted(entry.surely_listed(view)) for view in entry.views()}
    size = rows = 0
    errors: list[float] = []
    for view, blocks in listed.items():
        entry.require_records([view])  # several at a time, each kept for the loop below
        for block in blocks:
            record = entry.own_record(view, block)
            size += sum(file.length(record.chunks) for file in entry.block_files(view, block)) + len(record.to_bytes())
            start, stop = entry.layout.block_range(block)
            rows += stop - start
            errors += [record.kl] if record.kl is not None else []
    return TeacherFacts(
        identity=entry.identity.to_json(),
        whole=tuple(view for view, blocks in listed.items() if len(blocks) == entry.layout.blocks),
        begun=tuple(view for view, blocks in listed.items() if 0 < len(blocks) < entry.layout.blocks),
        size=size,
        rows=rows,
        kl=fmean(errors) if errors else None,
        measured=len(errors),
        blocks=sum(map(len, listed.values())),
    )
