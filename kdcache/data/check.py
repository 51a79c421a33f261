"""Checking every image once: what cannot be decoded leaves the index, what can has a checksum from then on."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import google_crc32c
import numpy as np
from jaxtyping import Int64, UInt32

from kdcache.data import remote
from kdcache.data.advice import arguments, take_again
from kdcache.data.columns import COLUMNS, CRC, Source, read_meta
from kdcache.data.index import Index, key_hash, load_index, open_index, write_index
from kdcache.data.index_writer import seal, write_rows
from kdcache.data.places import building, claimed, index_places, is_url, shards_folder
from kdcache.data.scan import BadSample
from kdcache.data.shards import expand_data, open_shard
from kdcache.errors import BadSamplesError, DataError, UsageError
from kdcache.runtime.progress import Progress, silent
from kdcache.runtime.workers import in_processes, workers_for

Faults = Callable[[Iterable[bytes]], Iterator[str | None]]
"""Why each of some encoded images is bad, as a clause; None where it is whole."""

_IMAGES_A_PIECE = 128


@dataclass(frozen=True)
class Checked:
    """What a check came to: the index that it left, and the samples that are not in it, by shard and offset."""

    index: Index
    bad: tuple[BadSample, ...]


def check_index(
    data: str | Path,
    faults: Faults,
    *,
    drop_bad: bool = False,
    unlabelled: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> Checked:
    """Look at every image of DATA, and write an index with the CRC32C of each; it counts the classes of bad ones too.

    Args:
        faults: a function of the top level of a module, as other processes must find it.
        drop_bad: leave bad samples out; else one of them leaves everything as it was.
        workers: processes that decode; None takes one for each core as far as there is work for them.

    Raises:
        UsageError: DATA is a part of a data set.
        BadSamplesError: there are bad samples, and drop_bad is false.
        FolderHeldError: another process writes the index.
        DataError: no sample is whole; and as `build_index` does, but for broken image headers, which are found here.
    """
    if os.path.isdir(data) and read_meta(Path(data)):
        part = open_index(data)
        raise UsageError(
            f"{data} is a part of the shards in {part.shards_folder}. Check the whole "
            f"(`kdcache index {part.data} --check`), then take the part again "
            f"(`{take_again(Path(data), read_meta(Path(data)), part.data)}`)."
        )
    shards = expand_data(data)
    source = Source.of(shards_folder(data, shards), shards, unlabelled)
    places = index_places(data, shards, unlabelled)
    with claimed(places, progress, wait=False) as place, building(place) as folder:
        former = read_meta(place).get("fingerprint")
        whole = folder / "whole"
        whole.mkdir()
        headless = write_index(whole, source, workers, progress, pass_over=True)
        everything = load_index(whole, source)
        crc, faulty = np.zeros(0, CRC), dict[int, BadSample]()
        if everything is not None:
            crc, faulty = _decode_all(everything, faults, workers, progress)
        number = {shard: place for place, shard in enumerate(shards)}
        bad = sorted([*headless, *faulty.values()], key=lambda sample: (number[sample.shard], sample.offset))
        total = len(headless) + len(crc)
        if bad and not drop_bad and not _leaves_out(load_index(place, source), bad):
            raise BadSamplesError(
                f"{len(bad)} of {total} samples are bad; nothing was changed. Leave them out with "
                f"`kdcache index {arguments(data, unlabelled)} --drop-bad`, or repair them.",
                [str(sample) for sample in bad],
            )
        if everything is None or len(faulty) == len(everything):
            raise DataError(
                f"None of the {total} images can be decoded; the first is {bad[0]}. "
                "Write the shards again from their source."
            )
        columns = {name: getattr(everything, name) for name in (*COLUMNS, "key_start", "key_bytes")}
        write_rows(folder, columns | {"crc": crc}, np.delete(np.arange(len(everything)), list(faulty)))
        # Of what is left out as well: a classifier keeps its size, whichever images are broken.
        labels = max(int(everything.label.max()), *(sample.label for sample in headless), -1) + 1
        shutil.rmtree(whole)
        seal(folder, source, labels=labels, left_out=len(bad))
    index = load_index(place, source)
    if index is None:
        raise DataError(f"The index {place} changed while it was being opened. Run the command again.")
    if former not in (None, index.fingerprint):
        progress.warn(
            f"the data have another fingerprint than before ({former[:12]}): caches made from them then will be refused"
        )
    return Checked(replace(index, asked=str(data)), tuple(bad))


def _leaves_out(index: Index | None, bad: Sequence[BadSample]) -> bool:
    """Whether an index is there already that has none of these samples, because a check has dropped them."""
    if index is None or not index.left_out:
        return False
    hashes = np.array([key_hash(sample.key) for sample in bad], np.uint64)
    return not np.isin(hashes, index.key_hash).any()


@dataclass(frozen=True, eq=False)
class _Piece:
    """Images of one shard, front to back."""

    shard: str
    offset: Int64[np.ndarray, " b"]
    length: Int64[np.ndarray, " b"]


def _decode_all(
    index: Index, faults: Faults, workers: int | None, progress: Progress
) -> tuple[UInt32[np.ndarray, " n"], dict[int, BadSample]]:
    """The checksum of each row's bytes, and row -> what is bad."""
    rows = list(_rows_of_pieces(index))
    pieces = [_Piece(index.shards[index.shard[part[0]]], index.offset[part], index.length[part]) for part in rows]
    crc, bad = np.zeros(len(index), CRC), {}
    with progress.task("checking", total=len(index)) as task:
        if workers is None:
            workers = workers_for(int(index.length.sum()))
        # Decoders in C say themselves what is wrong with an image, without its name.
        checked = in_processes(partial(_check_piece, faults=faults), pieces, workers, "checking", progress, quiet=True)
        for part, piece, (sums, reasons) in zip(rows, pieces, checked, strict=True):
            crc[part] = sums
            for at, reason in reasons.items():
                row = int(part[at])
                label = int(index.label[row])
                bad[row] = BadSample(index.key(row), piece.shard, int(piece.offset[at]), reason, label)
            task.advance(len(part), bad=float(len(bad)))
    return crc, bad


def _rows_of_pieces(index: Index) -> Iterator[Int64[np.ndarray, " b"]]:
    order = np.lexsort((index.offset, index.shard))
    for run in np.split(order, np.flatnonzero(np.diff(index.shard[order])) + 1):
        yield from (run[low : low + _IMAGES_A_PIECE] for low in range(0, len(run), _IMAGES_A_PIECE))


def _check_piece(piece: _Piece, faults: Faults) -> tuple[UInt32[np.ndarray, " b"], dict[int, str]]:
    """The checksum of each image's bytes, and place in the piece -> what is bad."""

    def check() -> tuple[UInt32[np.ndarray, " b"], dict[int, str]]:
        return _check_once(piece, faults)

    return remote.read_again(piece.shard, check, lambda found: not found[1]) if is_url(piece.shard) else check()


def _check_once(piece: _Piece, faults: Faults) -> tuple[UInt32[np.ndarray, " b"], dict[int, str]]:
    sums = np.zeros(len(piece.offset), CRC)

    def images() -> Iterator[bytes]:
        with open_shard(piece.shard, end=int((piece.offset + piece.length).max())) as file:
            for at, (offset, length) in enumerate(zip(piece.offset.tolist(), piece.length.tolist(), strict=True)):
                data = file.read(length, offset)
                sums[at] = google_crc32c.value(data)
                yield data

    found = {at: reason for at, reason in enumerate(faults(images())) if reason is not None}
    return sums, found
