"""Copying blocks from one cache into another, byte for byte, each chunk checked on the way."""

from kdcache.cache.entry import Entry
from kdcache.cache.files import Files
from kdcache.errors import CorruptError


def copy_block(source: Entry, target: Files, view: int, block: int) -> int:
    """Copy a recorded block to where it is not recorded yet; its record comes last, when all else is flushed.

    Returns the bytes copied. Raises CorruptError where a chunk is not what its record says, here or, read back, there.
    """
    keys, total = [], 0
    parts = source.raw_block(view, block)
    key, data = next(parts)
    for following in parts:
        target.put(key, data)
        if target.get(key) != data:
            raise CorruptError(
                f"{target.locate(key)} was read back with other bytes than were written. The disk or the memory cannot "
                "be trusted; check them before going on."
            )
        keys.append(key)
        total += len(data)
        key, data = following
    target.flush(keys)
    target.put_if_absent(key, data)
    return total + len(data)
