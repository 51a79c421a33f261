"""Tables of shards -> the sorted columns of an index, on disk, in bounded memory."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from kdcache.data.columns import COLUMNS, FORMAT, FORMAT_WITH_LOST, KEY_START, LOST, META, Source, save
from kdcache.data.scan import ShardTable
from kdcache.data.sorting import sorted_numbers
from kdcache.errors import DataError
from kdcache.io.disk import Disk

_ROWS = 1 << 18  # handled at once
_SPOOLED: dict[str, np.dtype] = {**COLUMNS, "key_length": KEY_START, "key_bytes": np.dtype("u1")}


def hash_keys(keys: bytes, lengths: np.ndarray) -> bytes:
    """Return the 64-bit BLAKE2b hashes, one after the other, of keys that lie one after the other."""
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends][:-1]
    return b"".join(
        hashlib.blake2b(keys[start:end], digest_size=8).digest() for start, end in zip(starts, ends, strict=True)
    )


def write_rows(folder: Path, columns: Mapping[str, np.ndarray], rows: Int64[np.ndarray, " n"]) -> None:
    """Write these rows of `columns`, in this order, as the columns of an index in `folder`.

    columns: those of `COLUMNS`, `crc` where there is one, and `key_start` and `key_bytes`; any order of rows.
    """
    count = len(rows)
    for name, column in columns.items():
        if name not in ("key_start", "key_bytes"):
            save(folder, name, column.dtype, (column[part] for part in _parts(rows)), count)
    first, text = columns["key_start"], columns["key_bytes"]
    starts = np.zeros(count + 1, KEY_START)
    for low in range(0, count, _ROWS):
        part = rows[low : low + _ROWS]
        starts[low + 1 : low + 1 + len(part)] = first[part + 1] - first[part]
    np.cumsum(starts, out=starts)

    def gathered() -> Iterator[np.ndarray]:
        for part in _parts(rows):
            lengths = first[part + 1] - first[part]
            before = np.cumsum(lengths) - lengths
            yield text[np.repeat(first[part] - before, lengths) + np.arange(lengths.sum())]

    save(folder, "key_bytes", np.dtype("u1"), gathered(), int(starts[-1]))
    save(folder, "key_start", KEY_START, [starts], count + 1)


def seal(
    folder: Path,
    source: Source,
    *,
    labels: int | None = None,
    lost: Int64[np.ndarray, " k"] | None = None,
    **notes: object,
) -> None:
    """Make the columns in `folder` an index: work out the fingerprint, and write `index.json`.

    labels: number of classes; None: the highest label plus one.
    lost: rows to be marked as lost, ascending.
    notes: further entries of `index.json`.
    """
    if lost is not None and len(lost):
        save(folder, "lost", LOST, [lost], len(lost))
        notes["lost"] = len(lost)
    meta = {
        "format": FORMAT_WITH_LOST if "lost" in notes else FORMAT,
        "samples": len(_saved(folder, "key_hash")),
        "labels": int(_saved(folder, "label").max()) + 1 if labels is None else labels,
        "fingerprint": _fingerprint(folder),
        "source": source.to_json(),
        **notes,
    }
    (folder / META).write_text(json.dumps(meta))


class IndexWriter:
    """Takes the tables of the shards, in order, and leaves an index's files in `folder`.

    What comes is spooled to the folder at once; sorting needs memory for the key hashes and their order, and for
    a bounded number of rows of one column at a time.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder = folder
        self._source = source
        self.samples = 0
        self._disk = Disk()
        # Without buffers, of which each would try again to be written when a full disk has ended it all.
        self._spools = {name: open(self._spool(name), "xb", buffering=0) for name in _SPOOLED}  # noqa: SIM115

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
            self._disk.write(self._spools[name].fileno(), part.astype(_SPOOLED[name]).tobytes())
        self.samples += count

    def finish(self) -> None:
        """Sort by key hash, look for duplicates, and work out the fingerprint.

        Raises DataError when there is no sample, and when two samples share a key or a key hash.
        """
        self.close()
        if not self.samples:
            raise DataError(f"The shards in {self._source.folder} hold no sample. Name another folder.")
        starts = np.zeros(self.samples + 1, KEY_START)
        np.cumsum(self._spooled("key_length"), out=starts[1:])
        columns = {name: self._spooled(name) for name in COLUMNS}
        columns |= {"key_start": starts, "key_bytes": self._spooled("key_bytes")}
        hashes = np.asarray(columns["key_hash"])
        write_rows(self._folder, columns, sorted_numbers(self.samples, lambda rows: hashes[rows]))
        self._refuse_duplicates()
        for name in _SPOOLED:
            self._spool(name).unlink()
        seal(self._folder, self._source)

    def close(self) -> None:
        """Close the spools; whoever gives up on the index calls this and deletes the folder."""
        for spool in self._spools.values():
            spool.close()

    def _refuse_duplicates(self) -> None:
        hashes = _saved(self._folder, "key_hash")
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
        start, end = _saved(self._folder, "key_start")[sample : sample + 2]
        return _saved(self._folder, "key_bytes")[start:end].tobytes().decode()

    def _place(self, sample: int) -> str:
        shard = self._source.paths[_saved(self._folder, "shard")[sample]]
        return f"in {shard} at byte {_saved(self._folder, 'offset')[sample]}"

    def _spool(self, name: str) -> Path:
        return self._folder / f"{name}.spool"

    def _spooled(self, name: str) -> np.ndarray:
        path = self._spool(name)
        if not path.stat().st_size:
            return np.empty(0, _SPOOLED[name])
        return np.memmap(path, _SPOOLED[name], mode="r")


def _fingerprint(folder: Path) -> str:
    """BLAKE2b-256 over key lengths, keys, labels, encoded lengths, heights and widths in key-hash order."""
    starts = _saved(folder, "key_start")
    samples = len(starts) - 1
    total = hashlib.blake2b(f"kdcache index {FORMAT} {samples}".encode(), digest_size=32)
    for low in range(0, samples, _ROWS):
        total.update(np.diff(starts[low : low + _ROWS + 1]).tobytes())
    for name in ("key_bytes", "label", "length", "height", "width"):
        column = _saved(folder, name)
        for low in range(0, len(column), _ROWS):
            total.update(column[low : low + _ROWS].tobytes())
    return total.hexdigest()


def _saved(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    for low in range(0, len(rows), _ROWS):
        yield rows[low : low + _ROWS]
