"""Damaging a cache, and looking at what became of it."""

import random
import re
from dataclasses import replace
from pathlib import Path

from kdcache.cache.record import BlockRecord
from kdcache.cache.store import Cache
from kdcache.inspection.health import VerifyReport
from kdcache.inspection.verify import VerifyOptions, verify

#: Of each teacher of the cache that is damaged.
VIEWS = 2


def look(path: Path, repair: bool = False) -> VerifyReport:
    """What verify finds."""
    return verify(VerifyOptions(cache=str(path), repair=repair))


def flipped(rng: random.Random, data: bytes) -> bytes:
    """With one byte altered."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]


def forge_records(path: Path, name: str) -> None:
    """Let each record of an entry name the block in whose place it lies, so that nothing but its targets betrays it."""
    own = {}
    records = path / "teachers" / name / "records"
    for file in sorted(records.glob("*/*.json")):
        record = BlockRecord.from_bytes(file.read_bytes(), str(file))
        assert record.block_id is not None
        own[file] = replace(record.block_id, view=int(file.parent.name), block=int(file.stem))
        file.write_bytes(replace(record, block_id=own[file]).to_bytes())
    entry = Cache.open(path).entry(name)
    assert own
    assert all(entry.block_id(block_id.view, block_id.block) == block_id for block_id in own.values())


def one_of_each_kind(cache: Path) -> list[Path]:
    """A file of each kind that lies in a cache: those whose paths differ in more than numbers."""
    files = [path for path in sorted(cache.rglob("*")) if path.is_file()]
    kinds = {re.sub(r"\d+", "N", path.relative_to(cache).as_posix()): path for path in files}
    return list(kinds.values())
