"""The table of all samples: key, shard, byte offset, length, height, width and label, sorted by key hash.

It is made once from tar and image headers, nothing is decoded, and lies in a folder of memory-mapped columns: opening
it costs the same for a thousand samples and for fourteen million. A sample's number is its row, and depends on the
keys alone: not on the shards' names, number or order.
"""

import os
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt32, UInt64

from kdcache.data import remote
from kdcache.data.advice import arguments, kept_data, take_again
from kdcache.data.columns import Source, load, read_meta
from kdcache.data.index_writer import IndexWriter, hash_keys
from kdcache.data.passed_over import PassedOver
from kdcache.data.places import building, claimed, index_places, is_url, shards_folder
from kdcache.data.scan import BadSample, scan_shard
from kdcache.data.shards import CLASSES, expand_data, folders_with_shards, hidden_shards
from kdcache.errors import DataError
from kdcache.io.json_format import parse_json
from kdcache.io.reading import read_bytes
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.workers import in_processes, workers_for

_LONGEST_NUMBER = 10  # digits; more are no class
_MANY_CLASSES, _CLASSES_A_LABEL = 1000, 10


@dataclass(frozen=True, eq=False)
class Index:
    """The samples of a data set: `n` rows, one per sample.

    path: folder of the index.
    shards: absolute paths, or URLs.
    key_hash: 64-bit BLAKE2b of the UTF-8 key as a little-endian number, strictly ascending.
    shard: number of the shard.
    offset, length: position and size of the image file in the shard, in bytes.
    height, width: pixels, as stored (EXIF orientation is not applied).
    label: class number; -1 for unlabelled.
    fingerprint: BLAKE2b-256 in hex over keys, labels, encoded lengths, heights and widths: equal for equal samples,
        wherever they lie and however they are spread over shards.
    class_names: names in the order of labels, from the `classes.json` beside the shards, if there is one.
    crc: CRC32C of the image files, if every image has been checked; reading compares it.
    left_out: number of bad samples that the check has left out.
    lost: rows, ascending, of bad samples that keep their places (see `kdcache.data.lost`); they must not be read.
    is_part: whether these are a part of the shards' samples (see `kdcache.data.part`).
    unlabelled: whether labels were left out, or there are none.
    opened_as: DATA by which it, or the data set that it is a part of, was opened; empty if an old part lacks it.
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
    crc: UInt32[np.ndarray, " n"] | None = None
    left_out: int = 0
    lost: Int64[np.ndarray, " k"] = field(default_factory=lambda: np.empty(0, np.int64))
    is_part: bool = False
    unlabelled: bool = False
    opened_as: str = ""

    def __len__(self) -> int:
        return len(self.key_hash)

    def key(self, sample: int) -> str:
        """Return the key of a sample."""
        return self.key_bytes[self.key_start[sample] : self.key_start[sample + 1]].tobytes().decode()

    def describe(self, sample: int) -> str:
        """Return a sample's name for errors: "KEY in SHARD at byte OFFSET", for a part with a further remedy."""
        place = f"{self.key(sample)} in {self.shards[self.shard[sample]]} at byte {self.offset[sample]}"
        if not self.is_part:
            return place
        return f"{place} (repair the whole as follows, then take the part {self.path} of it again)"

    def whose_label(self, label: int) -> str:
        """Return a sample with this label, in brackets for a message; empty if there is none."""
        rows = np.flatnonzero(self.label == label)
        return f" (that of {self.describe(int(rows[0]))})" if len(rows) else ""

    @property
    def data(self) -> str:
        """The argument of `kdcache index` for these samples, or for the whole of a part, in recommended commands."""
        return arguments(self.opened_as or self.shards_folder, self.unlabelled)

    @property
    def shards_folder(self) -> Path | str:
        """The deepest folder that holds all of the shards; a `str` is a URL."""
        return shards_folder("", self.shards)


def key_hash(key: str) -> int:
    """Return the 64-bit BLAKE2b hash of the key's UTF-8 bytes, read as a little-endian number."""
    encoded = key.encode()
    return int.from_bytes(hash_keys(encoded, np.array([len(encoded)])), "little")


def open_index(
    data: str | Path, *, unlabelled: bool = False, workers: int | None = None, progress: Progress = logged
) -> Index:
    """Open the index of DATA (a folder of tars, a brace pattern, or a part of either); build it if necessary.

    It is built if it is missing or of an old format, or if the list of shards, or the size or modification time of one,
    has changed. The index of a part (see `kdcache.data.part`) is never built. If several processes open one index at
    the same time, one builds it while the others wait. A checked index is preferred to one that is not checked.

    unlabelled: store label -1 for every sample, and require no labels. workers: see `build_index`.

    Raises DataError as `build_index` does, and for a part whose shards have changed.
    """
    found = find_index(data, unlabelled=unlabelled)
    if found is None:
        found = _build(data, unlabelled, workers, progress, rebuild=False)
    if found.class_names is not None and (misplaced := _misplaced_number(found.class_names)) is not None:
        progress.warn(
            f"the classes of {found.data} are numbers in the order of text: label {misplaced} means class "
            f"{found.class_names[misplaced]}. old versions of `kdcache import folder` did so; import the "
            "folders again if the labels must be these numbers, as a model's classes are"
        )
    return found


def find_index(data: str | Path, *, unlabelled: bool = False) -> Index | None:
    """Return the index that `open_index` opens without building; None if it would build. Raises DataError like it."""
    part = read_meta(Path(data)) if os.path.isdir(data) else {}
    if part:
        return _open_part(Path(os.path.abspath(data)), part)
    shards = expand_data(data)

    def look() -> Index | None:
        now = Source.of(shards_folder(data, shards), shards, unlabelled)
        # An index of `kdcache index --unlabelled` is used without the option, too, if there is none with labels.
        for without_labels in (unlabelled, True):
            source = replace(now, unlabelled=without_labels)
            places = index_places(data, shards, without_labels)
            found = [index for place in places if (index := load_index(place, source)) is not None]
            if found:
                return replace(min(found, key=lambda index: index.crc is None), opened_as=str(data))
        return None

    found = look()
    if found is None and is_url(shards[0]) and any(map(read_meta, index_places(data, shards, unlabelled))):
        # An index, and perhaps a check of every image, is not discarded for one response of the object store.
        found = remote.read_again(shards[0], look, lambda index: index is not None)
    return found


def build_index(
    data: str | Path, *, unlabelled: bool = False, workers: int | None = None, progress: Progress = logged
) -> Index:
    """Build the index of DATA, also if there is one, and open it.

    The folder is `kdcache-index` beside the shards or, where that cannot be written, one under $XDG_CACHE_HOME or
    ~/.cache. It is written to a temporary folder, which is renamed when it is complete.

    workers: number of processes that scan shards; None: one per core, or fewer for little work.

    Raises DataError, naming shard, key and byte offset, for a shard that is missing, damaged or cut short, a sample
    without an image or label, a broken image header, a label that is no whole number, a duplicate key; and when no
    place for the index can be written; FolderHeldError when another process writes it.
    """
    return _build(data, unlabelled, workers, progress, rebuild=True)


def _build(data: str | Path, unlabelled: bool, workers: int | None, progress: Progress, rebuild: bool) -> Index:
    shards = expand_data(data)
    source = Source.of(shards_folder(data, shards), shards, unlabelled)
    places = index_places(data, shards, unlabelled)
    with claimed(places, progress, wait=not rebuild) as place:
        if not rebuild and (index := load_index(place, source)) is not None:
            return replace(index, opened_as=str(data))
        checked = [meta for place in places if "left_out" in (meta := read_meta(place))]
        if any(meta.get("lost") for meta in checked):
            raise DataError(
                f"Samples of {data} have been marked as lost, and the shards have changed since. Run `kdcache index "
                f"{arguments(data, unlabelled)} --mark-bad` again, which keeps their caches usable; or run it with "
                "--drop-bad, which makes these caches unusable."
            )
        left_out = [meta["left_out"] for meta in checked]
        if left_out:
            progress.warn(
                f"the images were checked ({left_out[0]} bad ones left out), but the shards have changed since; "
                f"run `kdcache index {arguments(data, unlabelled)} --check` again"
            )
        with building(place) as folder:
            write_index(folder, source, workers, progress, data=arguments(data, unlabelled))
    index = load_index(place, source)
    if index is None:
        raise DataError(f"The index {place} changed while it was being opened. Run the command again.")
    _report_passed_over(data, progress)
    _warn_of_labels(index, progress)
    progress.say(f"indexed {format_count(len(index), 'sample')} in {format_count(len(shards), 'shard')}: {place}")
    return replace(index, opened_as=str(data))


def _report_passed_over(data: str | Path, progress: Progress) -> None:
    """Report tars in the folder DATA, and in folders directly in it, that are not part of DATA."""
    hidden = hidden_shards(data)
    if hidden:
        progress.say(f"passed over {len(hidden)} hidden files that are called .tar, such as {hidden[0]}")
    below = folders_with_shards(data)
    if below:
        folders = "the folder" if len(below) == 1 else f"{len(below)} folders, such as"
        progress.say(
            f"passed over the .tar files in {folders} {below[0]} in {data}: a folder stands for the .tar files "
            "directly in it. To use all of them, move them into one folder, or name them by one brace pattern"
        )


def _warn_of_labels(index: Index, progress: Progress) -> None:
    """Warn about labels that may be a mistake: far more classes than different labels, and no class names."""
    if index.class_names is not None or index.num_classes <= _MANY_CLASSES:
        return
    highest = index.num_classes - 1
    different = np.count_nonzero(np.bincount(index.label[index.label >= 0]))
    if index.num_classes > _CLASSES_A_LABEL * different:
        progress.warn(
            f"the labels go up to {highest:,}{index.whose_label(highest)}, but {different:,} different ones are there: "
            f"a classifier would have {index.num_classes:,} outputs. Look at that sample's label"
        )


def _open_part(folder: Path, meta: dict[str, Any]) -> Index:
    if "part" not in meta:
        raise DataError(f"{folder} is the index of some shards, not their folder. Name the folder of the shards.")
    former = None
    try:
        former = Source(folder, tuple(map(tuple, meta["source"]["shards"])), meta["source"]["unlabelled"])
        index = load_index(folder, Source.of(folder, former.paths, former.unlabelled))
    except (KeyError, TypeError, ValueError):
        index = None
    whole = kept_data(meta["part"].get("data"), folder) if isinstance(meta["part"], dict) else ""
    if index is None:
        unlabelled = former is not None and former.unlabelled
        raise DataError(
            f"The shards that {folder} is a part of have changed, or it is damaged. Remove it, and make it again with "
            f"`{take_again(folder, meta, arguments(whole, unlabelled) if whole else 'DATA')}`."
        )
    return replace(index, opened_as=whole)


def load_index(place: Path, source: Source) -> Index | None:
    """Return the index in the folder `place`, if it is whole and of this source.

    Raises DataError when the names of the classes cannot be read or do not fit.
    """
    loaded = load(place, source)
    if loaded is None:
        return None
    class_names = _class_names(f"{source.folder}/{CLASSES}")
    index = Index(
        path=place,
        shards=source.paths,
        **loaded.columns,
        fingerprint=loaded.fingerprint,
        num_classes=loaded.labels if class_names is None else len(class_names),
        class_names=class_names,
        left_out=loaded.left_out or 0,
        lost=loaded.lost,
        is_part=loaded.is_part,
        unlabelled=source.unlabelled,
        opened_as="",
    )
    if class_names is not None and len(class_names) < loaded.labels:
        raise DataError(
            f"{source.folder}/{CLASSES} names {len(class_names):,} classes, but the labels go up to "
            f"{loaded.labels - 1:,}{index.whose_label(loaded.labels - 1)}. List every class, or correct the label and "
            "write the shard again."
        )
    return index


def _misplaced_number(class_names: tuple[str, ...]) -> int | None:
    """Return the first label whose class is named by another number, where names are 0 to n - 1 in another order."""
    if not all(name.isascii() and name.isdecimal() for name in class_names):
        return None
    numbers = [int(name) for name in class_names if len(name) < _LONGEST_NUMBER]
    if sorted(numbers) != list(range(len(class_names))):
        return None
    return next((label for label, number in enumerate(numbers) if label != number), None)


def _class_names(path: str) -> tuple[str, ...] | None:
    try:
        if is_url(path):
            text = remote.read_if_there(path)
            if text is None:
                return None
        else:
            text = read_bytes(path)
        names = parse_json(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Correct it, or remove it.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{path} is not a JSON list of class names in the order of their labels, such as "
            '["cat", "dog"]. Correct it, or remove it.'
        )
    return tuple(names)


def write_index(
    folder: Path,
    source: Source,
    workers: int | None,
    progress: Progress,
    pass_over: bool = False,
    data: str = "DATA",
) -> list[BadSample]:
    """Scan all shards and leave their index in the empty `folder`; errors and `workers` as in `build_index`.

    pass_over: leave out samples with a broken image header, in place of raising, and return them. If there is no
    other sample, no index is written. data: the shards as a command takes them, for what an error advises.
    """
    if workers is None:
        workers = workers_for(sum(size for _, size, _ in source.shards))
    scan = partial(scan_shard, unlabelled=source.unlabelled, pass_over=pass_over, data=data)
    bad: list[BadSample] = []
    passed_over = PassedOver()
    with (
        closing(IndexWriter(folder, source)) as writer,
        progress.task("indexing", total=len(source.shards), unit="shards") as task,
    ):
        for number, table in enumerate(in_processes(scan, source.paths, workers, "indexing", progress)):
            writer.add(number, table)
            bad += table.bad
            passed_over.add(table.passed_over)
            task.advance()
        if writer.samples or not bad:
            writer.finish()
    if (line := passed_over.line()) is not None:
        progress.say(line)
    if (line := passed_over.joined_line()) is not None:
        progress.warn(line)
    return bad
