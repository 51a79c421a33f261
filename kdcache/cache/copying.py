"""Copying blocks from one cache into another, byte for byte, each chunk checked on the way."""

from collections.abc import Iterator
from dataclasses import replace

from kdcache.cache.block_commit import BlockCommit
from kdcache.cache.entry import Entry
from kdcache.errors import CacheError, SourceError, UnreadableError


def copy_block(source: Entry, target: Entry, view: int, block: int) -> int | None:
    """Copy a recorded block to where it is not recorded; its record comes last, when all else is flushed.

    The record says which block it is of as the target's format has it: a copy of a cache of format 3 says it.

    Returns the bytes copied, None where the block is there already or another process records it meanwhile.

    Raises:
        SourceError: the source's block is damaged, is another block's, or cannot be read; it is not there.
        CorruptError: a chunk that was written was read back with other bytes.
        RecordedError: another process wrote other bytes at the same time; the block is not there.
    """
    if target.drop_incomplete(view, block):
        return None
    commit = BlockCommit(target, view, block)
    total = 0
    for key, parts in _named(source.raw_block(view, block)):
        if not commit.put(key, *parts):
            return None
        total += sum(map(len, parts))
        del parts
    record = replace(source.own_record(view, block), block_id=target.recorded_id(view, block))
    return total + len(record.to_bytes()) if commit.record(record) else None


def _named(found: Iterator[tuple[str, list[bytes]]]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the same values, and raise errors of the source as SourceError."""
    try:
        yield from found
    except CacheError as error:
        raise SourceError(str(error), damaged=not isinstance(error, UnreadableError)) from error
