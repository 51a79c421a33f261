"""The record of a block: what its chunks must be, and how it was made. A block without one does not exist."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, NamedTuple

import google_crc32c

from kdcache.cache.identity import canonical, seal, unseal
from kdcache.errors import CacheError
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError

#: The bytes that the crc32c codec leaves at the end of every chunk.
CHECKSUM_BYTES = 4

#: What a record may say.
FIELDS = {"block_id", "chunks", "kl", "lost", "provenance"}

#: How a list of lost samples is named (`cache.lost`).
LOST_NAME = re.compile(r"[0-9a-f]{32}")

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
        """Return checksum and length of these bytes."""
        if google_crc32c.value(data) == WITH_OWN:  # then the last four say it, and nothing has to be copied
            return cls(int.from_bytes(data[-CHECKSUM_BYTES:], "little"), len(data))
        return cls(google_crc32c.value(data[:-CHECKSUM_BYTES]), len(data))

    def describes(self, data: bytes) -> bool:
        """Return whether these are the bytes, down to the last."""
        return self.of(data) == self and data[-CHECKSUM_BYTES:] == self.crc32c.to_bytes(4, "little")


@dataclass(frozen=True)
class BlockId:
    """Which block a record is of, so that a record in another block's place is recognised.

    Attributes:
        view_set, teacher: `digest` of the identities of the cache and of the entry.
        view, block: its numbers.
    """

    view_set: str
    teacher: str
    view: int
    block: int

    @classmethod
    def from_json(cls, value: Any, where: str) -> "BlockId":
        """Return the id that `asdict` gave. Raises CacheError, naming `where`, for anything else."""
        fields = {"view_set": str, "teacher": str, "view": int, "block": int}
        known = isinstance(value, dict) and value.keys() == fields.keys()
        if not known or any(type(value[name]) is not kind for name, kind in fields.items()):
            raise CacheError(f"{where} is no record of a block: {value!r:.80} names no block.")
        return cls(**value)


@dataclass(frozen=True)
class BlockRecord:
    """What is stored of a block: `chunks` by array and chunk ("class/12"), and `provenance`.

    Provenance says with what the block was made (software, hardware, renderer), as plain JSON values. It
    holds no time, host, rank or duration: making the block again on the same machine gives the same bytes.

    `kl` is what the codec loses: the mean KL divergence, in nats, of the stored targets from those that
    the teacher gave, over the block's first batch; None where it was not measured.

    `block_id` says which block it is of; None in caches of format 3.

    `lost` names the list of the samples whose images were lost when the block was made (`cache.lost`); None where none
    were. Without that list nobody knows which of its rows are of a stand-in.
    """

    chunks: Mapping[str, Stored]
    provenance: Mapping[str, Any]
    kl: float | None = None
    block_id: BlockId | None = None
    lost: str | None = None

    def __post_init__(self) -> None:
        if self.kl is not None:  # as it is written: three digits say all there is to say
            object.__setattr__(self, "kl", float(f"{self.kl:.3g}"))

    def to_bytes(self) -> bytes:
        """Return canonical JSON with a checksum."""
        content: dict[str, Any] = {
            "chunks": {name: list(stored) for name, stored in self.chunks.items()},
            "provenance": dict(self.provenance),
        }
        if self.kl is not None:
            content["kl"] = self.kl
        if self.block_id is not None:
            content["block_id"] = asdict(self.block_id)
        if self.lost is not None:
            content["lost"] = self.lost
        return canonical(seal(content)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "BlockRecord":
        """Return the record. Raises CacheError, naming `where`, for anything that `to_bytes` does not write."""
        try:
            value = parse_json(data)
        except FormatError as error:
            raise CacheError(f"{where} cannot be read as JSON ({error}); it was cut short or altered.") from None
        content = unseal(value, where)
        chunks, provenance = content.get("chunks"), content.get("provenance")
        kl, block_id, lost = content.get("kl"), content.get("block_id"), content.get("lost")
        if not isinstance(chunks, dict) or not isinstance(provenance, dict) or not content.keys() <= FIELDS:
            raise CacheError(f"{where} is no record of a block.")
        if kl is not None and not (type(kl) is float and 0 <= kl < inf):
            raise CacheError(f"{where} is no record of a block: {kl!r:.80} is no KL divergence.")
        if lost is not None and not (isinstance(lost, str) and LOST_NAME.fullmatch(lost)):
            raise CacheError(f"{where} is no record of a block: {lost!r:.80} names no list of lost samples.")
        for stored in chunks.values():
            if not (isinstance(stored, list) and len(stored) == 2 and all(_is_size(part) for part in stored)):
                raise CacheError(f"{where} is no record of a block: {stored!r:.80} describes no chunk.")
        stored_chunks = {name: Stored(*stored) for name, stored in chunks.items()}
        known_id = None if block_id is None else BlockId.from_json(block_id, where)
        record = cls(stored_chunks, provenance, kl, known_id, lost)
        if record.to_bytes() != data:
            raise CacheError(f"{where} was altered: it is not written as kdcache writes records.")
        return record


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32
