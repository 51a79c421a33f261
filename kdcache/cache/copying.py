"""Copying blocks from one cache into another, byte for byte, each chunk checked on the way."""

from collections.abc import Iterator

from kdcache.cache.entry import Entry
from kdcache.cache.layout import record_key
from kdcache.errors import CacheError, CorruptError, SourceError


def copy_block(source: Entry, target: Entry, view: int, block: int) -> int | None:
    """Copy a recorded block to where it is not recorded; its record comes last, when all else is flushed.

    Returns the bytes copied, None where the block is there already or another process records it meanwhile.

    Raises:
        SourceError: the source's block is damaged or cannot be read; it is not there.
        CorruptError: a chunk that was written was read back with other bytes.
        RecordedError: another process wrote other bytes at the same time; the block is not there.
    """
    if target.settle(view, block):
        return None
    files = target.files
    keys: list[str] = []
    total = 0
    for key, parts in _named(source.raw_block(view, block)):
        if target.is_listed(view, block):
            if keys:
                target.drop_if_mixed(view, block)
            return None
        files.put(key, *parts)
        if not files.holds(key, *parts):
            raise CorruptError(
                f"{files.locate(key)} was read back with other bytes than were written. The disk or the memory cannot "
                "be trusted; check them before going on."
            )
        keys.append(key)
        total += sum(map(len, parts))
        del parts
    files.flush(keys)
    record = source.own_record(view, block).to_bytes()
    if not files.put_if_absent(record_key(target.identity.name, view, block), record):
        target.drop_if_mixed(view, block)
        return None
    return total + len(record)


def _named(found: Iterator[tuple[str, list[bytes]]]) -> Iterator[tuple[str, list[bytes]]]:
    """The same, with errors that tell the source's from those of the target."""
    try:
        yield from found
    except CacheError as error:
        raise SourceError(str(error)) from error
