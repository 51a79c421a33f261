"""Files of several chunks, as Zarr's codec `sharding_indexed` has them: one chunk behind the other, then an index.

Where chunks are small, so that little is read for a few rows, a file for each would be too many. All about a file
follows from the record of its block: which chunks it has, where each lies, and what its index says.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import google_crc32c

from kdcache.cache.record import Stored

#: What an index says of a chunk that is not there: beyond the last row of the last block.
ABSENT = 2**64 - 1


@dataclass(frozen=True)
class ChunkFile:
    """A file of a block: neighbouring chunks of one array.

    Attributes:
        key: of the file.
        names: of its chunks, in order, as the block's record has them ("class/12").
        room: chunks that it has room for; of 1, the file is the chunk, and has no index.
    """

    key: str
    names: tuple[str, ...]
    room: int

    @property
    def array(self) -> str:
        """The array that the chunks belong to."""
        return self.names[0].split("/")[0]

    def is_in(self, chunks: Mapping[str, Stored]) -> bool:
        """Return whether a record names all of its chunks."""
        return all(name in chunks for name in self.names)

    def start(self, name: str, chunks: Mapping[str, Stored]) -> int:
        """Return where a chunk begins, in bytes, by what the record says of all."""
        return sum(chunks[before].length for before in self.names[: self.names.index(name)])

    def index(self, lengths: Sequence[int]) -> bytes:
        """Return the index behind chunks of these lengths: start and length of each as u64, and the CRC32C of all."""
        if self.room == 1:
            return b""
        starts = accumulate(lengths, initial=0)
        pairs = [number for pair in zip(starts, lengths, strict=False) for number in pair]
        pairs += [ABSENT] * (2 * self.room - len(pairs))
        places = struct.pack(f"<{2 * self.room}Q", *pairs)
        return places + struct.pack("<I", google_crc32c.value(places))

    def recorded_index(self, chunks: Mapping[str, Stored]) -> bytes:
        """Return the index of the file, by what the record says."""
        return self.index([chunks[name].length for name in self.names])

    def length(self, chunks: Mapping[str, Stored]) -> int:
        """Return the length of the whole file in bytes, by what the record says."""
        return sum(chunks[name].length for name in self.names) + index_length(self.room)


def index_length(room: int) -> int:
    """Return the length in bytes of the index of a file with room for so many chunks."""
    return 0 if room == 1 else 16 * room + 4
