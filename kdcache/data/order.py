"""The random order of the samples in each view, close to the order on disk if there are many shards."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt32, UInt64

from kdcache.data.sorting import PIECE, nothing, sorted_numbers
from kdcache.random.philox import Stream, philox_uint32

SHARDS_A_WINDOW = 64

#: Readers that walk through a view that is seen again, at the same time.
LANES = 4


def order(
    key_hash: UInt64[np.ndarray, "n"],
    windows: Int32[np.ndarray, "n"],
    seed: int,
    group: int,
    pause: Callable[[], None] = nothing,
) -> Int64[np.ndarray, "n"]:
    """Return the samples of a group of views in their order: row p is sample `order[p]`.

    Sorted by (the window's rank in this group, a 64-bit Philox word of the sample, key hash): windows follow each
    other in random order, samples are shuffled inside theirs. Takes 8 bytes a sample, which are the result.

    Args:
        key_hash: ascending, as an index has them; ties of the Philox word fall back to this order.
        windows: each sample's window, numbered from 0.
        group: number of the group of views that share this order.
        pause: function called every few milliseconds; an error that it raises ends the work.
    """
    count = int(windows.max()) + 1 if len(windows) else 0
    window_word = _word64(philox_uint32(seed, Stream.WINDOW, np.arange(count, dtype=np.uint64), group, 1)[:, 0])
    rank = np.empty(count, np.int64)
    rank[np.argsort(window_word, kind="stable")] = np.arange(count)
    return sorted_numbers(
        len(key_hash),
        lambda samples: _word64(philox_uint32(seed, Stream.ORDER, key_hash[samples], group, 1)[:, 0]),
        rank=lambda samples: rank[windows[samples]],
        ranks=count,
        pause=pause,
    )


def reused_pairs(
    pairs: int,
    block_pairs: int,
    unit_pairs: int,
    seed: int,
    group: int,
    cycle: int,
    pause: Callable[[], None] = nothing,
) -> Int64[np.ndarray, "pairs"]:
    """Return the pairs of a group of views in the order in which a training sees them for the `cycle`-th time.

    The first time (cycle 0) they come as they lie. Later they come so that a group brings other batches each time, and
    is still read nearly as it lies, a few small parts at once:

    * blocks are put in random order, the halves of each are swapped or not, the halves of these, and so on down to
      units. So whatever power of two divides a block into chunks, the rows of a chunk stay together;
    * `LANES` readers walk through that sequence at once, each through its own part of it. What they meet in one step,
      a unit each, is a stretch, whose pairs are shuffled.

    Args:
        pairs: number of pairs of the view.
        block_pairs: number of pairs of a block, a power of two.
        unit_pairs: neighbouring pairs that stay in one stretch, a power of two that divides `block_pairs`; the last
            unit may have fewer.
        seed: seed of the view set.
        group: number of the group of views.
        cycle: number of earlier passes over the group.
        pause: function called every few milliseconds; an error that it raises ends the work.
    """
    if cycle == 0:
        return np.arange(pairs, dtype=np.int64)
    again = np.uint64(cycle) << np.uint64(40)

    def draw(stream: Stream, ids: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
        return _word64(philox_uint32(seed, stream, ids | again, group, 1)[:, 0])

    unit = np.arange(-(-pairs // unit_pairs), dtype=np.uint64)
    levels = (block_pairs // unit_pairs).bit_length() - 1
    place = np.zeros(len(unit), np.uint64)  # of a unit in its block: a bit for each halving, the largest first
    for level in map(np.uint64, range(levels)[::-1]):
        # `level` halvings lie below this one: the draw is of the part that is halved, whichever of its units asks.
        swap = draw(Stream.UNIT, (unit >> (level + np.uint64(1))) | (level << np.uint64(32))) & np.uint64(1)
        place = (place << np.uint64(1)) | (((unit >> level) & np.uint64(1)) ^ swap)
    block_word = draw(Stream.UNIT, (unit >> np.uint64(levels)) | np.uint64(levels << 32))
    sequence = np.lexsort((place, block_word))
    stretches = -(-len(unit) // LANES)
    stretch = np.empty(len(unit), np.int64)
    stretch[sequence] = np.arange(len(unit)) % stretches
    return sorted_numbers(
        pairs,
        lambda numbers: draw(Stream.REUSE, numbers.astype(np.uint64)),
        rank=lambda numbers: stretch[numbers // unit_pairs],
        ranks=stretches,
        pause=pause,
    )


def _word64(draws: UInt32[np.ndarray, "n 4"]) -> UInt64[np.ndarray, "n"]:
    return draws[:, 0].astype(np.uint64) | (draws[:, 1].astype(np.uint64) << np.uint64(32))


@dataclass(frozen=True)
class Windows:
    """A partition of the samples, kept with a view set: `ids` per sample, and why there is only one, if so."""

    ids: Int32[np.ndarray, "n"]
    warning: str | None = None


def derive_windows(shard: Int32[np.ndarray, "n"], label: Int32[np.ndarray, "n"], shards: int) -> Windows:
    """Return windows of about 64 neighbouring shards; one window for few shards, or if windows differ in their labels.

    A window whose labels are far from the whole's would feed the student a few classes at a time. Far means a total
    variation distance above 0.1 plus twice what sampling alone gives.
    """
    count = max(1, round(shards / SHARDS_A_WINDOW))
    one = np.zeros(len(shard), np.int32)
    if count == 1 or len(shard) == 0:
        return Windows(one)
    ids = (np.arange(shards, dtype=np.int64) * count // shards).astype(np.int32)[shard]
    distance, by_chance = _label_distances(ids, label, count)
    if np.any(distance > 0.1 + 2 * by_chance):
        return Windows(
            one,
            f"The shards come in class order (neighbouring shards differ from the whole by up to "
            f"{distance.max():.0%} of their labels), so samples are shuffled over all of them and reading is "
            f"random access; write the shards in random order (kdcache import does) to read them in sequence.",
        )
    return Windows(ids)


def _label_distances(
    ids: Int32[np.ndarray, "n"], label: Int32[np.ndarray, "n"], count: int
) -> tuple[Float64[np.ndarray, "count"], Float64[np.ndarray, "count"]]:
    """Return the total variation distance of each window's labels from those of all, and what sampling alone gives.

    Counts come from one sort of (window, label) in place, and are laid out for one window at a time: a table of 10,000
    windows and 20,000 classes would take more memory than the samples.
    """
    lowest = int(label.min())
    keys = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), PIECE):
        piece = slice(start, start + PIECE)
        above = (label[piece].astype(np.int64) - lowest).astype(np.uint64)
        keys[piece] = (ids[piece].astype(np.uint64) << np.uint64(32)) | above
    keys.sort()
    stops = np.searchsorted(keys, np.arange(1, count + 1, dtype=np.uint64) << np.uint64(32))
    found = [np.unique(part & np.uint64(0xFFFFFFFF), return_counts=True) for part in np.split(keys, stops[:-1])]
    classes = np.unique(np.concatenate([labels for labels, _ in found]))

    def of_classes(labels: UInt64[np.ndarray, "m"], counts: Int64[np.ndarray, "m"]) -> Float64[np.ndarray, "classes"]:
        row = np.zeros(len(classes))
        row[np.searchsorted(classes, labels)] = counts
        return row

    whole = np.zeros(len(classes))
    for labels, counts in found:
        whole += of_classes(labels, counts)
    whole /= len(ids)
    distance, by_chance = np.empty(count), np.empty(count)
    for window, (labels, counts) in enumerate(found):
        size = max(int(counts.sum()), 1)
        distance[window] = 0.5 * np.abs(of_classes(labels, counts) / size - whole).sum()
        by_chance[window] = np.sqrt(whole * (1 - whole) / (2 * np.pi * size)).sum()
    return distance, by_chance
