"""Data sets of the Hugging Face libraries, a folder that `save_to_disk` wrote or parquet files, as shards.

pyarrow alone reads both; the library `datasets` is not needed. Arrow files are mapped, and images read from them in any
order. Parquet has to be read front to back, so its images are first copied, once, to files in the folder of the import.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from kdcache.data.images import image_extension
from kdcache.data.importers.class_list import Labeller, read_class_list
from kdcache.data.importers.hugging_face_files import DataFiles, find_data_files
from kdcache.data.importers.hugging_face_table import (
    Columns,
    choose_columns,
    image_bytes,
    labels_in,
    open_table,
    parquet_images,
)
from kdcache.data.importers.shard_import import (
    ImportFolder,
    ImportOptions,
    digest,
    random_order,
    require_image,
    source_name,
)
from kdcache.data.importers.tar_source import state_of, unreadable
from kdcache.data.writer import NewSample
from kdcache.errors import DataError
from kdcache.io.reading import opened, read_part
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.workers import in_threads

if TYPE_CHECKING:
    import pyarrow


def import_hf(
    src: Path,
    out: Path,
    *,
    split: str | None = None,
    image: str | None = None,
    label: str | None = None,
    classes: Path | None = None,
    options: ImportOptions | None = None,
    progress: Progress = logged,
) -> int:
    """Write the images of a Hugging Face data set to shards in `out`, in random order, and return their number.

    The label is the one that the data set numbers, and class names are those that it lists. A key (`train-00000042`)
    tells the split and the row.

    Args:
        src: folder of `save_to_disk`, folder of parquet files (as a data set on the hub has it), or a parquet file.
        split: split to import, where there are several.
        image: column of the images; None for the only one that holds images.
        label: column of the labels; None for the only one that holds classes, or the column `label`.
        classes: list of class names in the order of the labels, where the data set does not name them.
        options: seed, resizing and threads.

    Raises:
        UsageError: there are several splits or columns, and none was chosen.
        DataError: pyarrow is not installed, files are missing or damaged, a row has no image or no label.
        FolderHeldError: another process writes `out`.
    """
    options = options or ImportOptions()
    with ImportFolder(out, progress) as folder:
        files = find_data_files(src, split)
        columns = choose_columns(files, image, label)
        if classes is not None and columns.class_names is not None:
            raise DataError(f"{src} names the classes of its labels itself: leave out --classes.")
        class_names = columns.class_names if classes is None else read_class_list(classes)
        labels = _labels(files, columns, class_names, options, progress)
        counts = [len(part) for part in labels]
        keys = [f"{files.split or 'row'}-{number:08d}" for number in range(sum(counts))]
        if not keys:
            raise DataError(f"There is no row in {src}. Name a data set with images.")
        sources: list[str] = []
        if files.are_parquet:
            sources = _copy_parquet(folder, files, columns, counts, options, progress)
            fetch = _from_copies([out / name for name in sources], counts)
            options = replace(options, resizing=None)  # the copies are resized already
        else:
            fetch = _from_arrow(files, columns)
        samples = _Images(files, keys, labels, fetch)
        count = folder.write(samples, random_order(keys, options.seed), class_names, options, sources)
        progress.say(f"imported {count} images from {src} into {out}")
        return count


def _labels(
    files: DataFiles,
    columns: Columns,
    class_names: Sequence[str] | None,
    options: ImportOptions,
    progress: Progress,
) -> list[Int64[np.ndarray, " n"]]:
    """Return the labels of each file's rows."""
    found = []
    labeller = Labeller(class_names)
    with progress.task("listing", total=len(files.paths), unit="files") as task:
        read = partial(labels_in, columns=columns, parquet=files.are_parquet)
        for path, values in zip(files.paths, in_threads(read, files.paths, options.workers), strict=True):
            found.append(_as_labels(values, labeller, path))
            task.advance()
    return found


def _as_labels(values: "pyarrow.ChunkedArray", labeller: Labeller, path: Path) -> Int64[np.ndarray, " n"]:
    """Return a column as labels; each different value is looked at once."""
    encoded = values.combine_chunks().dictionary_encode()
    if encoded.null_count:
        row = int(np.flatnonzero(encoded.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"Row {row} of {path} has no label. Leave it out, and save the data set again.")
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    labels = []
    for number, value in enumerate(encoded.dictionary.to_pylist()):
        row = int(np.flatnonzero(indices == number)[0])
        if value == -1:
            raise DataError(
                f"Row {row} of {path} has the label -1, as the hub marks labels of a test split that are kept secret. "
                "Take another split."
            )
        labels.append(labeller.label(value, f"Row {row} of {path}"))
    return np.array(labels, np.int64)[indices] if len(indices) else np.empty(0, np.int64)


class _Images:
    """The images of several files, whose rows are under one numbering, as samples."""

    def __init__(
        self,
        files: DataFiles,
        keys: Sequence[str],
        labels: Sequence[Int64[np.ndarray, " _"]],
        fetch: Callable[[int, int], bytes],
    ) -> None:
        """Take keys of all rows, labels of each file's rows, and the function of file and row that reads an image."""
        self._files, self._keys, self._labels, self._fetch = files, keys, np.concatenate(labels), fetch
        self._starts = np.cumsum([0, *map(len, labels)])
        self._states = [state_of(path) for path in files.paths]

    def read(self, number: int) -> NewSample:
        file, row = self._place(number)
        data = self._fetch(file, row)
        require_image(data, f"Row {row} of {self._files.paths[file]}")
        return NewSample(self._keys[number], image_extension(data), data, int(self._labels[number]))

    def stamp(self, number: int) -> str:
        return f"{self._keys[number]} {self._labels[number]} {self._states[self._place(number)[0]]}"

    def _place(self, number: int) -> tuple[int, int]:
        """Return the file of a row, and its number there."""
        file = int(np.searchsorted(self._starts, number, side="right")) - 1
        return file, number - int(self._starts[file])


def _from_arrow(files: DataFiles, columns: Columns) -> Callable[[int, int], bytes]:
    """Return the function that reads an image from mapped Arrow files."""
    images = [open_table(path)[columns.image] for path in files.paths]
    return lambda file, row: image_bytes(images[file][row].as_py(), f"Row {row} of {files.paths[file]}")


def _from_copies(copies: Sequence[Path], counts: Sequence[int]) -> Callable[[int, int], bytes]:
    """Return the function that reads an image from copies: images one after the other, and their ends behind them."""
    ends = [_ends(copy, count) for copy, count in zip(copies, counts, strict=True)]

    def fetch(file: int, row: int) -> bytes:
        start = int(ends[file][row - 1]) if row else 0
        try:
            with opened(copies[file]) as copy:
                return read_part(copy, start, int(ends[file][row]) - start)
        except OSError as error:
            raise unreadable(copies[file], error) from error

    return fetch


def _copy_parquet(
    folder: ImportFolder,
    files: DataFiles,
    columns: Columns,
    counts: Sequence[int],
    options: ImportOptions,
    progress: Progress,
) -> list[str]:
    """Copy the images of each parquet file to a file of the import, and return the names of these."""
    folder.begin()
    names = [source_name(number) for number in range(len(files.paths))]
    with progress.task("copying", total=sum(counts)) as task:

        def copy(number: int) -> int:
            path = files.paths[number]
            stamp = digest([state_of(path), columns.image, repr(options.resizing)])
            folder.write_source(names[number], stamp, _copied(path, columns.image, options))
            return counts[number]

        for count in in_threads(copy, range(len(names)), options.workers):
            task.advance(count)
    return names


def _copied(path: Path, column: str, options: ImportOptions) -> Iterator[bytes]:
    ends = []
    end = 0
    for row, value in enumerate(parquet_images(path, column)):
        where = f"Row {row} of {path}"
        data = image_bytes(value, where)
        if options.resizing is not None:
            data = options.resizing.apply_to_bytes(data, where)
        end += len(data)
        ends.append(end)
        yield data
    yield np.array(ends, np.int64).tobytes()


def _ends(copy: Path, count: int) -> Int64[np.ndarray, " n"]:
    """Return where each image in a copy ends."""
    try:
        with opened(copy) as file:
            size = copy.stat().st_size
            return np.frombuffer(read_part(file, size - 8 * count, 8 * count), np.int64)
    except OSError as error:
        raise unreadable(copy, error) from error
