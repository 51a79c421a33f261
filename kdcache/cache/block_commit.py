"""Putting a block where it is not yet: its files, each read back, and then the record that makes it exist."""

from functools import partial

from kdcache.cache.blocks import Blocks
from kdcache.cache.layout import record_key
from kdcache.cache.record import BlockRecord
from kdcache.errors import CorruptError


class BlockCommit:
    """Puts one block, of which each file comes once, and the record last, when all else is flushed.

    Until `record` returns True the block is not this process's. Another process may record it at any time: `put` and
    `record` then say False, and leave the other's files alone; where some were written over before that, they raise
    RecordedError and drop the record, so that the block can be made again.
    """

    def __init__(self, blocks: Blocks, view: int, block: int) -> None:
        self._blocks, self._view, self._block = blocks, view, block
        self._keys: list[str] = []

    def put(self, key: str, *parts: bytes) -> bool:
        """Put a file and read it back; False where the block is recorded already, which ends the work at it.

        Raises CorruptError where it is read back with other bytes, RecordedError as the class says.
        """
        files = self._blocks.files
        if self._is_recorded():
            return False
        self._keys.append(key)
        files.put(key, *parts)
        if files.confirm(key, partial(files.holds, key, *parts), bool):
            return True
        if self._is_recorded():
            return False
        raise CorruptError(
            f"View {self._view}, block {self._block} of teacher '{self._blocks.identity.name}' ({files.locate(key)}) "
            "was read back with other bytes than were written. Unless another process writes this block, too, the disk "
            "or the memory cannot be trusted; check them before going on."
        )

    def record(self, record: BlockRecord) -> bool:
        """Flush the files and put the record; False where another process's is there, which says the same of them.

        Raises RecordedError as the class says.
        """
        blocks, key = self._blocks, record_key(self._blocks.identity.name, self._view, self._block)
        blocks.files.flush(self._keys)
        first = blocks.files.put_if_absent(key, record.to_bytes())
        # Another process may have put files over these between the flush and the record: the lengths would tell.
        if not first or not blocks.is_sound(self._view, self._block):
            blocks.drop_if_mixed(self._view, self._block)
        return first

    def _is_recorded(self) -> bool:
        """Return whether another process has recorded the block meanwhile. Raises RecordedError as the class says."""
        if not self._blocks.is_listed(self._view, self._block):
            return False
        if self._keys:
            self._blocks.drop_if_mixed(self._view, self._block)
        return True
