"""The record of a block: what its chunks must be, and how it was made. A block without one does not exist."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import google_crc32c

from kdcache.cache.identity import canonical, seal, unseal
from kdcache.errors import CacheError
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError

#: The bytes that the crc32c codec leaves at the end of every chunk.
CHECKSUM_BYTES = 4

#: The CRC32C of any bytes that are followed by their own.
WITH_OWN = google_crc32c.value(bytes(CHECKSUM_BYTES))


class Stored(NamedTuple):
    """A chunk as it lies in the store: CRC32C of its bytes without the last four, and its length in bytes.

    The last four are the same checksum, written by the codec. They stay out of it because the CRC of any
    bytes followed by their own CRC is one constant, which would tell no chunk from another.
    """

    crc32c: int
    length: int

    @classmethod
    def of(cls, data: bytes) -> "Stored":
        """What is true of these bytes."""
        if google_crc32c.value(data) == WITH_OWN:  # then the last four say it, and nothing has to be copied
            return cls(int.from_bytes(data[-CHECKSUM_BYTES:], "little"), len(data))
        return cls(google_crc32c.value(data[:-CHECKSUM_BYTES]), len(data))

    def describes(self, data: bytes) -> bool:
        """Whether these are the bytes, down to the last."""
        return self.of(data) == self and data[-CHECKSUM_BYTES:] == self.crc32c.to_bytes(4, "little")


@dataclass(frozen=True)
class BlockRecord:
    """What is stored of a block: `chunks` by array and chunk ("class/12"), and `provenance`.

    Provenance says with what the block was made (software, hardware, renderer), as plain JSON values. It
    holds no time, host, rank or duration: making the block again on the same machine gives the same bytes.

    `kl` is what the coding loses: the mean KL divergence, in nats, of the answers as they are stored from those that
    the teacher gave, over the block's first batch; None where it was not measured.
    """

    chunks: Mapping[str, Stored]
    provenance: Mapping[str, Any]
    kl: float | None = None

    def __post_init__(self) -> None:
        if self.kl is not None:  # as it is written: three digits say all there is to say
            object.__setattr__(self, "kl", float(f"{self.kl:.3g}"))

    def to_bytes(self) -> bytes:
        """Canonical JSON with a checksum."""
        chunks = {name: list(stored) for name, stored in self.chunks.items()}
        content = {"chunks": chunks, "provenance": dict(self.provenance)}
        return canonical(seal(content if self.kl is None else {**content, "kl": self.kl})).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "BlockRecord":
        """The inverse. Raises CacheError, naming `where`, for anything that `to_bytes` does not write."""
        try:
            value = parse_json(data)
        except FormatError as error:
            raise CacheError(f"{where} cannot be read as JSON ({error}); it was cut short or altered.") from None
        content = unseal(value, where)
        chunks, provenance = content.get("chunks"), content.get("provenance")
        kl = content.get("kl")
        known = {"chunks", "provenance"} | ({"kl"} if kl is not None else set())
        if not isinstance(chunks, dict) or not isinstance(provenance, dict) or content.keys() != known:
            raise CacheError(f"{where} is no record of a block.")
        if kl is not None and not (type(kl) is float and 0 <= kl < inf):
            raise CacheError(f"{where} is no record of a block: {kl!r:.80} is no KL divergence.")
        for stored in chunks.values():
            if not (isinstance(stored, list) and len(stored) == 2 and all(_is_size(part) for part in stored)):
                raise CacheError(f"{where} is no record of a block: {stored!r:.80} describes no chunk.")
        record = cls({name: Stored(*stored) for name, stored in chunks.items()}, provenance, kl)
        if record.to_bytes() != data:
            raise CacheError(f"{where} was altered: it is not written as kdcache writes records.")
        return record


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32
