"""Lost samples, which keep their places: an index in which existing caches of the data still find every row.

The order of a view, and with it the rows of every cache, depends on the set of samples, and the fingerprint of the data
depends on their keys, labels, lengths and sizes. A sample whose image has become unreadable stays in the index with its
former values, marked as lost: its image is never read again, and training skips the pairs that contain it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from kdcache.data.columns import COLUMNS, KEY_START, Loaded, Source, load, read_meta
from kdcache.data.index import Index
from kdcache.data.scan import BadSample
from kdcache.errors import DataError

#: At most one in this many samples may be missing from the shards; with more, the data count as different data.
ONE_IN = 20


@dataclass(frozen=True, eq=False)
class Former:
    """The index that is about to be replaced, also if its shards have changed.

    shards: absolute paths, or URLs.
    """

    loaded: Loaded
    shards: tuple[str, ...]

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        start, end = self.loaded.columns["key_start"][row : row + 2]
        return self.loaded.columns["key_bytes"][start:end].tobytes().decode()


def read_former(places: Iterable[Path], source: Source) -> Former | None:
    """Return the index of the first of these folders that holds a complete one; None if none does."""
    for place in places:
        meta = read_meta(place)
        try:
            then = Source(source.folder, tuple(map(tuple, meta["source"]["shards"])), meta["source"]["unlabelled"])
        except (KeyError, TypeError, ValueError):
            continue
        loaded = load(place, then)
        if loaded is not None and then.unlabelled == source.unlabelled:
            return Former(loaded, then.paths)
    return None


@dataclass(frozen=True, eq=False)
class Kept:
    """The rows of an index in which lost samples keep their places.

    columns: columns for `write_rows`.
    rows: rows of these columns, in the order of key hashes.
    lost: positions of lost samples among these rows.
    gone: lost samples that are in no shard any more.
    """

    columns: Mapping[str, np.ndarray]
    rows: Int64[np.ndarray, " n"]
    lost: Int64[np.ndarray, " k"]
    gone: tuple[BadSample, ...] = ()


def keep_places(
    everything: Index,
    crc: UInt32[np.ndarray, " m"],
    faulty: Collection[int],
    headless: Collection[int],
    former: Former | None,
) -> Kept:
    """Return the rows of an index of `everything` in which bad samples keep their places.

    Where there is a former index, its samples have places and no bad ones else: also those whose header is broken now,
    or that are gone. What a check had left out stays out, unless it lies in a shard that is new. Where there is none
    all samples have places but those with broken headers, of which nothing is known.

    Args:
        everything: samples with readable headers; crc: of their bytes.
        faulty: rows of those that cannot be decoded; headless: hashes of the keys with broken headers.

    Raises:
        DataError: too many samples are gone.
    """
    columns = {name: getattr(everything, name) for name in (*COLUMNS, "key_start", "key_bytes")} | {"crc": crc}
    if former is None:
        return Kept(columns, np.arange(len(everything)), np.array(sorted(faulty), np.int64))
    then = former.loaded.columns
    keep = np.ones(len(everything), bool)
    keep[list(faulty)] = False
    if former.loaded.left_out:
        is_new = np.array([shard not in set(former.shards) for shard in everything.shards])
        keep &= np.isin(everything.key_hash, then["key_hash"]) | is_new[everything.shard]
    lost = np.flatnonzero(~np.isin(then["key_hash"], everything.key_hash[keep]))
    seen = np.concatenate([everything.key_hash, np.array(list(headless), np.uint64)])
    gone = lost[~np.isin(then["key_hash"][lost], seen)]
    if len(gone) > 1 and len(gone) * ONE_IN > len(then["key_hash"]):
        raise DataError(
            f"{len(gone):,} of the {len(then['key_hash']):,} samples that were indexed before are in no shard any "
            f"more, such as {former.key(int(gone[0]))}: these are different data. Restore the shards; or index "
            "them as they are now with --drop-bad, for new caches."
        )
    columns = _joined(columns, former, lost, everything.shards)
    chosen = np.concatenate([np.flatnonzero(keep), np.arange(len(lost)) + len(everything)])
    rows = chosen[np.argsort(columns["key_hash"][chosen], kind="stable")]
    places = np.flatnonzero(rows >= len(everything))
    return Kept(columns, rows, places, tuple(_gone(former, int(row)) for row in gone))


def _joined(
    columns: Mapping[str, np.ndarray], former: Former, rows: Int64[np.ndarray, " k"], shards: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return the columns, followed by some rows of the former index."""
    then = former.loaded.columns
    if not len(rows):
        return dict(columns)
    more = {name: then[name][rows] for name in COLUMNS}
    number = {shard: place for place, shard in enumerate(shards)}
    more["shard"] = np.array([number.get(former.shards[shard], 0) for shard in more["shard"].tolist()], np.int32)
    more["crc"] = np.zeros(len(rows), np.uint32)  # never compared
    more["key_bytes"] = np.frombuffer("".join(former.key(row) for row in rows.tolist()).encode(), np.uint8)
    joined = {name: np.concatenate([columns[name], more[name]]) for name in more}
    lengths = (then["key_start"][1:] - then["key_start"][:-1])[rows]
    ends = columns["key_start"][-1] + np.cumsum(lengths, dtype=KEY_START)
    joined["key_start"] = np.concatenate([columns["key_start"], ends])
    return joined


def _gone(former: Former, row: int) -> BadSample:
    columns = former.loaded.columns
    shard = former.shards[columns["shard"][row]]
    return BadSample(
        former.key(row), shard, int(columns["offset"][row]), "it is in no shard any more", int(columns["label"][row])
    )


def is_lost(index: Index) -> Bool[np.ndarray, " n"]:
    """Return a mask of the lost samples of an index."""
    found = np.zeros(len(index), bool)
    found[index.lost] = True
    return found
