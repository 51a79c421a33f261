"""The table of all samples: key, shard, byte offset, length, height, width and label, sorted by key hash.

It is made once from tar and image headers, nothing is decoded, and lies in a folder of memory-mapped columns: opening
it costs the same for a thousand samples and for fourteen million. A sample's number is its row, and depends on the
keys alone: not on the shards' names, number or order.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt64

from kdcache.data.columns import Source, load
from kdcache.data.index_writer import IndexWriter, hash_keys
from kdcache.data.places import building, claimed, index_places, shards_folder
from kdcache.data.scan import ShardTable, scan_shard
from kdcache.data.shards import CLASSES, expand_data
from kdcache.errors import DataError
from kdcache.progress import Progress, silent

_BYTES_A_WORKER = 32 << 20  # below this, starting another process takes longer than it saves


@dataclass(frozen=True, eq=False)
class Index:
    """All samples of a data set; `n` of them, one row each.

    path: the index's own folder; shards: absolute paths.
    key_hash: 64-bit BLAKE2b of the UTF-8 key as a little-endian number, strictly ascending.
    shard: which of the shards; offset, length: where in it the image file lies, in bytes.
    height, width: in pixels, as stored (EXIF orientation is not applied); label: -1 for unlabelled.
    fingerprint: BLAKE2b-256 in hex over keys, labels, encoded lengths, heights and widths: equal for equal samples,
        wherever they lie and however they are spread over shards.
    class_names: in the order of labels, from the `classes.json` beside the shards, if there is one.
    """

    path: Path
    shards: tuple[str, ...]
    key_hash: UInt64[np.ndarray, " n"]
    shard: Int32[np.ndarray, " n"]
    offset: Int64[np.ndarray, " n"]
    length: Int64[np.ndarray, " n"]
    height: Int32[np.ndarray, " n"]
    width: Int32[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    key_start: Int64[np.ndarray, " n+1"]
    key_bytes: UInt8[np.ndarray, " bytes"]
    fingerprint: str
    num_classes: int
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.key_hash)

    def key(self, sample: int) -> str:
        """The key of a sample."""
        return self.key_bytes[self.key_start[sample] : self.key_start[sample + 1]].tobytes().decode()

    def describe(self, sample: int) -> str:
        """How an error names a sample: "KEY in SHARD at byte OFFSET"."""
        return f"{self.key(sample)} in {self.shards[self.shard[sample]]} at byte {self.offset[sample]}"


def key_hash(key: str) -> int:
    """The 64-bit BLAKE2b hash of the key's UTF-8 bytes, read as a little-endian number."""
    encoded = key.encode()
    return int.from_bytes(hash_keys(encoded, np.array([len(encoded)])), "little")


def open_index(
    data: str | Path, *, unlabelled: bool = False, workers: int | None = None, progress: Progress = silent
) -> Index:
    """The index of DATA (a folder of tars or a brace pattern), built if it is missing, stale or of an old format.

    It is stale when the list of shards, or the size or time of modification of one, is no longer what it was.
    Processes that open one index at the same time build it once.

    unlabelled: store label -1 for every sample, and ask for none. workers: see `build_index`.

    Raises DataError as `build_index` does.
    """
    return _open(data, unlabelled, workers, progress, rebuild=False)


def build_index(
    data: str | Path, *, unlabelled: bool = False, workers: int | None = None, progress: Progress = silent
) -> Index:
    """Build the index of DATA, whether or not there is one, and open it.

    The folder is `kdcache-index` beside the shards or, where that cannot be written, one under $XDG_CACHE_HOME or
    ~/.cache. It is written apart and renamed when it is whole.

    workers: processes that scan shards; None takes one for each core as far as there is work for them.

    Raises DataError, naming shard, key and byte offset, for a shard that is missing, damaged or cut short, a sample
    without an image or label, a broken image header, a label that is no whole number, a duplicate key; and when no
    place for the index can be written.
    """
    return _open(data, unlabelled, workers, progress, rebuild=True)


def _open(data: str | Path, unlabelled: bool, workers: int | None, progress: Progress, rebuild: bool) -> Index:
    shards = expand_data(data)
    if not rebuild:
        # What `kdcache index --unlabelled` has made serves whoever does not say; labels go before it.
        for without_labels in (unlabelled, True):
            source = Source.of(shards_folder(data, shards), shards, without_labels)
            for place in index_places(data, shards, without_labels):
                if (index := _load(place, source)) is not None:
                    return index
    source = Source.of(shards_folder(data, shards), shards, unlabelled)
    places = index_places(data, shards, unlabelled)
    with claimed(places) as place:
        if not rebuild and (index := _load(place, source)) is not None:
            return index
        with building(place) as folder:
            _build(folder, source, workers, progress)
    index = _load(place, source)
    if index is None:
        raise DataError(f"The index {place} changed while it was being opened. Run the command again.")
    progress.say(f"indexed {len(index)} samples in {len(shards)} shards: {place}")
    return index


def _load(place: Path, source: Source) -> Index | None:
    loaded = load(place, source)
    if loaded is None:
        return None
    class_names = _class_names(source.folder / CLASSES)
    if class_names is not None and len(class_names) < loaded.labels:
        raise DataError(
            f"{source.folder / CLASSES} names {len(class_names)} classes, but the labels go up to "
            f"{loaded.labels - 1}. List every class, or remove the file."
        )
    return Index(
        path=place,
        shards=source.paths,
        **loaded.columns,
        fingerprint=loaded.fingerprint,
        num_classes=loaded.labels if class_names is None else len(class_names),
        class_names=class_names,
    )


def _class_names(path: Path) -> tuple[str, ...] | None:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Correct it, or remove it.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path} is not a JSON list of class names. Correct it, or remove it.")
    return tuple(names)


def _build(folder: Path, source: Source, workers: int | None, progress: Progress) -> None:
    with (
        closing(IndexWriter(folder, source)) as writer,
        progress.task("indexing", total=len(source.shards), unit="shards") as task,
    ):
        for number, table in enumerate(_tables(source, workers, progress)):
            writer.add(number, table)
            task.advance()
        writer.finish()


def _tables(source: Source, workers: int | None, progress: Progress) -> Iterator[ShardTable]:
    """The tables of all shards in order, scanned here or by worker processes."""
    scan = partial(scan_shard, unlabelled=source.unlabelled)
    paths = source.paths
    if workers is None:
        total = sum(size for _, size, _ in source.shards)
        workers = min(len(os.sched_getaffinity(0)), total // _BYTES_A_WORKER)
    done = 0
    if min(workers, len(paths)) > 1:
        pool = ProcessPoolExecutor(min(workers, len(paths)), multiprocessing.get_context("spawn"))
        try:
            for table in pool.map(scan, paths):
                yield table
                done += 1
        except BrokenProcessPool:
            progress.warn("worker processes cannot run here; indexing goes on in this process")
        finally:
            pool.shutdown(cancel_futures=True)
    yield from map(scan, paths[done:])
