"""Check of every image: those that cannot be decoded leave the index, all others get a checksum."""

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
from kdcache.data.lost import Former, Kept, keep_places, read_former
from kdcache.data.places import building, claimed, index_places, is_url, shards_folder
from kdcache.data.scan import BadSample
from kdcache.data.shards import expand_data, open_shard
from kdcache.errors import BadSamplesError, DataError, UsageError
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.workers import in_processes, workers_for

Faults = Callable[[Iterable[bytes]], Iterator[str | None]]
"""A function that yields for each encoded image why it is bad, as a clause; None if it is not."""

_IMAGES_A_PIECE = 128


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        index: index that the check has written.
        bad: bad samples that are not in the index, by shard and offset.
        lost: bad samples that are in the index, marked as lost.
    """

    index: Index
    bad: tuple[BadSample, ...]
    lost: tuple[BadSample, ...] = ()


def check_index(
    data: str | Path,
    faults: Faults,
    *,
    drop_bad: bool = False,
    mark_bad: bool = False,
    unlabelled: bool = False,
    workers: int | None = None,
    progress: Progress = logged,
) -> Checked:
    """Decode every image of DATA, and write an index with the CRC32C of each; classes of bad samples count, too.

    Args:
        faults: function at the top level of a module, so that worker processes can import it.
        drop_bad: leave bad samples out, which gives the data another fingerprint.
        mark_bad: mark bad samples as lost, which keeps their places (see `kdcache.data.lost`). Without either, bad
            samples leave everything as it was.
        workers: number of processes that decode; None: one per core, or fewer for little work.

    Raises:
        UsageError: DATA is a part of a data set, or both drop_bad and mark_bad are given.
        BadSamplesError: there are bad samples, and neither drop_bad nor mark_bad is given.
        FolderHeldError: another process writes the index.
        DataError: no image can be decoded; and as `build_index` does, except for broken image headers.
    """
    if drop_bad and mark_bad:
        raise UsageError("--drop-bad leaves bad samples out and --mark-bad keeps their places: give one of them.")
    _require_whole(data, "--mark-bad" if mark_bad else "--drop-bad" if drop_bad else "--check")
    shards = expand_data(data)
    source = Source.of(shards_folder(data, shards), shards, unlabelled)
    places = index_places(data, shards, unlabelled)
    with claimed(places, progress, wait=False) as place, building(place) as folder:
        former = read_former(places, source)
        if former is not None and drop_bad:
            _warn_of_caches(former, arguments(data, unlabelled), progress)
        found = _look(folder / "whole", source, faults, workers, progress)
        if found.bad and not drop_bad and not mark_bad and not _knows(former, found.bad):
            raise BadSamplesError(
                f"{len(found.bad)} of {found.total} samples are bad; nothing was changed. "
                f"`kdcache index {arguments(data, unlabelled)} --mark-bad` marks them as lost and keeps "
                "caches of these data usable; if there are none, "
                f"`kdcache index {arguments(data, unlabelled)} --drop-bad` leaves them out; or repair them.",
                [str(sample) for sample in found.bad],
            )
        # A check of an index with lost samples keeps their places again.
        marking = mark_bad or (not drop_bad and former is not None and len(former.loaded.lost) > 0)
        lost = _write_checked(folder, source, found, former, marking)
    index = load_index(place, source)
    if index is None:
        raise DataError(f"The index {place} changed while it was being opened. Run the command again.")
    index = replace(index, opened_as=str(data))
    if former is not None and former.loaded.fingerprint != index.fingerprint:
        _warn_of_another_fingerprint(former, index, progress)
    if marking:
        _warn_of_whole_ones(found, index, progress)
    hashes = set(index.key_hash[index.lost].tolist())
    bad = [sample for sample in found.bad if key_hash(sample.key) not in hashes]
    return Checked(index, tuple(bad), tuple(lost))


def _require_whole(data: str | Path, option: str) -> None:
    if os.path.isdir(data) and read_meta(Path(data)):
        part = open_index(data)
        raise UsageError(
            f"{data} is a part of the shards in {part.shards_folder}. Check the whole "
            f"(`kdcache index {part.data} {option}`), then take the part again "
            f"(`{take_again(Path(data), read_meta(Path(data)), part.data)}`)."
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """The result of decoding every image.

    everything: the index of the samples with readable headers; None where there is none.
    crc: the checksum of each of its rows' bytes; faulty: row -> what is bad.
    bad: all bad samples, by shard and offset; headless: those of them with broken headers.
    """

    everything: Index | None
    crc: UInt32[np.ndarray, " n"]
    faulty: dict[int, BadSample]
    headless: list[BadSample]
    bad: list[BadSample]

    @property
    def total(self) -> int:
        """Number of samples in the shards."""
        return len(self.headless) + len(self.crc)


def _look(folder: Path, source: Source, faults: Faults, workers: int | None, progress: Progress) -> _Found:
    """Scan and decode all shards, and write their index to `folder`."""
    folder.mkdir()
    headless = write_index(folder, source, workers, progress, pass_over=True)
    everything = load_index(folder, source)
    crc, faulty = np.zeros(0, CRC), dict[int, BadSample]()
    if everything is not None:
        crc, faulty = _decode_all(everything, faults, workers, progress)
    bad = sorted([*headless, *faulty.values()], key=_by_place(source))
    return _Found(everything, crc, faulty, headless, bad)


def _by_place(source: Source) -> Callable[[BadSample], tuple[int, int]]:
    """Return the order of samples by shard and offset; those of shards that are gone come first."""
    number = {shard: place for place, shard in enumerate(source.paths)}
    return lambda sample: (number.get(sample.shard, -1), sample.offset)


def _write_checked(
    folder: Path, source: Source, found: _Found, former: Former | None, marking: bool
) -> list[BadSample]:
    """Write the index of what has been found to `folder`, and return the samples that are marked as lost in it."""
    everything = found.everything
    if everything is None or len(found.faulty) == len(everything):
        raise DataError(
            f"None of the {found.total} images can be decoded; the first is {found.bad[0]}. "
            "Write the shards again from their source."
        )
    headless = {key_hash(sample.key): sample for sample in found.headless}
    if marking:
        kept = keep_places(everything, found.crc, found.faulty, headless, former)
    else:
        columns = {name: getattr(everything, name) for name in (*COLUMNS, "key_start", "key_bytes")}
        rows = np.delete(np.arange(len(everything)), list(found.faulty))
        kept = Kept(columns | {"crc": found.crc}, rows, np.empty(0, np.int64))
    write_rows(folder, kept.columns, kept.rows)
    # Labels of left-out samples count as well: a classifier keeps its size, whichever images are broken.
    labels = max(int(kept.columns["label"].max()), *(sample.label for sample in found.headless), -1) + 1
    shutil.rmtree(folder / "whole")
    left_out = found.total - (len(kept.rows) - len(kept.gone))
    seal(folder, source, labels=labels, lost=kept.lost, left_out=left_out)
    by_hash = headless | {key_hash(sample.key): sample for sample in [*found.faulty.values(), *kept.gone]}
    lost = [by_hash[int(value)] for value in kept.columns["key_hash"][kept.rows[kept.lost]]]
    return sorted(lost, key=_by_place(source))


def _warn_of_caches(former: Former, data: str, progress: Progress) -> None:
    progress.warn(
        f"these data have been indexed before (fingerprint {former.loaded.fingerprint[:12]}). If bad samples are left "
        "out now, the data have another fingerprint, and caches that were made from them are refused. "
        f"`kdcache index {data} --mark-bad` keeps such caches usable"
    )


def _warn_of_another_fingerprint(former: Former, index: Index, progress: Progress) -> None:
    back = ""
    if index.left_out and not former.loaded.left_out:
        back = (
            f". To go back remove the index ({index.path}), then run `kdcache index {index.data} --mark-bad`, which "
            "marks bad samples as lost without leaving them out"
        )
    progress.warn(
        f"the data have another fingerprint than before ({former.loaded.fingerprint[:12]}): caches made from them then "
        f"are refused{back}"
    )


def _warn_of_whole_ones(found: _Found, index: Index, progress: Progress) -> None:
    """Warn about samples that a former check left out and that can be decoded now."""
    count = found.total - len(found.bad) - (len(index) - len(index.lost))
    if count > 0:
        progress.warn(
            f"{count} of the samples that a check left out before can be decoded now. They stay out, so that the data "
            f"keep their fingerprint; `kdcache index {index.data} --drop-bad` takes them in, for other caches"
        )


def _knows(former: Former | None, bad: Sequence[BadSample]) -> bool:
    """Return whether a check has already left out all of these samples, or marked them as lost."""
    if former is None or not (former.loaded.left_out or len(former.loaded.lost)):
        return False
    present = np.delete(former.loaded.columns["key_hash"], former.loaded.lost)
    hashes = np.array([key_hash(sample.key) for sample in bad], np.uint64)
    return not np.isin(hashes, present).any()


@dataclass(frozen=True, eq=False)
class _Piece:
    """Images of one shard, in ascending order of offset."""

    shard: str
    offset: Int64[np.ndarray, " b"]
    length: Int64[np.ndarray, " b"]


def _decode_all(
    index: Index, faults: Faults, workers: int | None, progress: Progress
) -> tuple[UInt32[np.ndarray, " n"], dict[int, BadSample]]:
    """Return the checksum of each row's bytes, and the bad samples by row."""
    rows = list(_rows_of_pieces(index))
    pieces = [_Piece(index.shards[index.shard[part[0]]], index.offset[part], index.length[part]) for part in rows]
    crc, bad = np.zeros(len(index), CRC), {}
    with progress.task("checking", total=len(index)) as task:
        if workers is None:
            workers = workers_for(int(index.length.sum()))
        # quiet: decoders in C print errors of images without their names.
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
    """Return the checksum of each image's bytes, and the reason for each bad one, by its place in the piece."""

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
