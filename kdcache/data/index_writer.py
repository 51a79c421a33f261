"""Tables of shards -> the sorted columns of an index, on disk, in bounded memory."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kdcache.data.columns import COLUMNS, FORMAT, KEY_START, META, Source, save
from kdcache.data.scan import ShardTable
from kdcache.errors import DataError
from kdcache.flushing import flush

_ROWS = 1 << 18  # handled at once
_SPOOLED: dict[str, np.dtype] = {**COLUMNS, "key_length": KEY_START, "key_bytes": np.dtype("u1")}


def hash_keys(keys: bytes, lengths: np.ndarray) -> bytes:
    """The 64-bit BLAKE2b hashes, one after the other, of keys that lie one after the other."""
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends][:-1]
    return b"".join(
        hashlib.blake2b(keys[start:end], digest_size=8).digest() for start, end in zip(starts, ends, strict=True)
    )


class IndexWriter:
    """Takes the tables of the shards, in order, and leaves an index's files in `folder`.

    What comes is spooled to the folder at once; sorting needs memory for the key hashes and their order, and for
    a bounded number of rows of one column at a time.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder = folder
        self._source = source
        self._samples = 0
        self._spools = {name: open(self._spool(name), "wb") for name in _SPOOLED}  # noqa: SIM115

    def add(self, shard: int, table: ShardTable) -> None:
        """Append the samples of shard number `shard`."""
        count = len(table.offset)
        parts = {
            "key_hash": np.frombuffer(hash_keys(table.keys, table.key_lengths), COLUMNS["key_hash"]),
            "shard": np.full(count, shard),
            "offset": table.offset,
            "length": table.length,
            "height": table.height,
            "width": table.width,
            "label": table.label,
            "key_length": table.key_lengths,
            "key_bytes": np.frombuffer(table.keys, np.uint8),
        }
        for name, part in parts.items():
            self._spools[name].write(part.astype(_SPOOLED[name]).tobytes())
        self._samples += count

    def finish(self) -> None:
        """Sort by key hash, look for duplicates, work out the fingerprint, and flush it all to the disk.

        Raises DataError when there is no sample, and when two samples share a key or a key hash.
        """
        self.close()
        if not self._samples:
            raise DataError(f"The shards in {self._source.folder} hold no sample. Name another folder.")
        order = np.argsort(self._spooled("key_hash"), kind="stable")
        for name, dtype in COLUMNS.items():
            column = self._spooled(name)
            save(self._folder, name, dtype, (column[part] for part in _parts(order)), self._samples)
        self._sort_keys(order)
        self._refuse_duplicates()
        meta = {
            "format": FORMAT,
            "samples": self._samples,
            "labels": int(self._saved("label").max()) + 1,
            "fingerprint": self._fingerprint(),
            "source": self._source.to_json(),
        }
        (self._folder / META).write_text(json.dumps(meta))
        for name in _SPOOLED:
            self._spool(name).unlink()
        for path in (*self._folder.iterdir(), self._folder):
            flush(path)

    def close(self) -> None:
        """Close the spools; whoever gives up on the index calls this and deletes the folder."""
        for spool in self._spools.values():
            spool.close()

    def _sort_keys(self, order: np.ndarray) -> None:
        lengths = self._spooled("key_length")
        starts = np.zeros(self._samples + 1, KEY_START)
        np.cumsum(lengths, out=starts[1:])
        total, text = int(starts[-1]), self._spooled("key_bytes")

        def gathered() -> Iterator[np.ndarray]:
            for part in _parts(order):
                count = lengths[part]
                before = np.cumsum(count) - count
                yield text[np.repeat(starts[part] - before, count) + np.arange(count.sum())]

        save(self._folder, "key_bytes", np.dtype("u1"), gathered(), total)
        np.cumsum(lengths[order], out=starts[1:])
        save(self._folder, "key_start", KEY_START, [starts], self._samples + 1)

    def _refuse_duplicates(self) -> None:
        hashes = self._saved("key_hash")
        equal = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not len(equal):
            return
        first, second = int(equal[0]), int(equal[0]) + 1
        key, other = self._key(first), self._key(second)
        places = f"{self._place(first)} and {self._place(second)}"
        if key != other:
            raise DataError(
                f"The keys {key} ({self._place(first)}) and {other} ({self._place(second)}) have the same 64-bit "
                "hash, by which samples are told apart. Rename one of the two."
            )
        more = f"; {len(equal) - 1} more are double" if len(equal) > 1 else ""
        raise DataError(
            f"The key {key} is there twice: {places}{more}. "
            "A key must name one sample: leave one out, or write the shards again with keys that differ."
        )

    def _key(self, sample: int) -> str:
        start, end = self._saved("key_start")[sample : sample + 2]
        return self._saved("key_bytes")[start:end].tobytes().decode()

    def _place(self, sample: int) -> str:
        shard = self._source.paths[self._saved("shard")[sample]]
        return f"in {shard} at byte {self._saved('offset')[sample]}"

    def _fingerprint(self) -> str:
        """BLAKE2b-256 over key lengths, keys, labels, encoded lengths, heights and widths in key-hash order."""
        total = hashlib.blake2b(f"kdcache index {FORMAT} {self._samples}".encode(), digest_size=32)
        starts = self._saved("key_start")
        for low in range(0, self._samples, _ROWS):
            total.update(np.diff(starts[low : low + _ROWS + 1]).tobytes())
        for name in ("key_bytes", "label", "length", "height", "width"):
            column = self._saved(name)
            for low in range(0, len(column), _ROWS):
                total.update(column[low : low + _ROWS].tobytes())
        return total.hexdigest()

    def _spool(self, name: str) -> Path:
        return self._folder / f"{name}.spool"

    def _spooled(self, name: str) -> np.ndarray:
        path = self._spool(name)
        if not path.stat().st_size:
            return np.empty(0, _SPOOLED[name])
        return np.memmap(path, _SPOOLED[name], mode="r")

    def _saved(self, name: str) -> np.ndarray:
        return np.load(self._folder / f"{name}.npy", mmap_mode="r")


def _parts(order: np.ndarray) -> Iterator[np.ndarray]:
    for low in range(0, len(order), _ROWS):
        yield order[low : low + _ROWS]
