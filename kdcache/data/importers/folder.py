"""A torchvision ImageFolder tree, SRC/CLASS/.../IMAGE, as shards."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from kdcache.data.importers.image_tree import read_tree
from kdcache.data.importers.resizing import Resizing
from kdcache.data.importers.shard_import import ImportFolder, ImportOptions, random_order, require_image
from kdcache.data.writer import NewSample
from kdcache.errors import DataError
from kdcache.io.reading import read_bytes
from kdcache.runtime.progress import Progress, logged

#: Bytes of an image file; an uncompressed one of 300 megapixels has less.
_MAX_IMAGE = 2**30


def import_folder(
    src: Path,
    out: Path,
    *,
    seed: int = 0,
    samples_per_shard: int = 1000,
    allow_empty: bool = False,
    resizing: Resizing | None = None,
    workers: int | None = None,
    progress: Progress = logged,
) -> int:
    """Write the images of `src` to shards in `out`, in random order, and return their number.

    Classes and their labels are those of torchvision's ImageFolder (the folders in `src`, by name), with two
    exceptions: folders of programs (`.ipynb_checkpoints`, `__MACOSX`) are no classes, and whole numbers are in the
    order of numbers. Links are followed. Files that are left out, because their extension is no image's or they are in
    no class folder, are listed in warnings. Image files are copied unchanged. Keys are the paths below `src` without
    extension; characters with a meaning to webdataset are percent-encoded.

    An import that was interrupted goes on, with the images that have not changed since.

    allow_empty: keep class folders without images as classes without samples.
    resizing: how large images are made smaller; None to copy all unchanged.
    workers: number of threads; None for one per core.

    Raises DataError as `read_tree` does, when an image has a broken header, and as `ImportFolder` does;
    FolderHeldError when another process writes `out`.
    """
    options = ImportOptions(seed, samples_per_shard, resizing, workers)
    with ImportFolder(out, progress) as folder:  # before millions of files are listed
        tree = read_tree(src, out, allow_empty=allow_empty, progress=progress)
        tree.report(src, progress)
        if not tree.labels:
            raise DataError(f"There is no image in {src}. Name a tree of the form SRC/CLASS/.../IMAGE.")
        samples = _Images(src, tree.labels)
        count = folder.write(samples, random_order(samples.keys, seed), tree.class_names, options)
        progress.say(f"imported {count} images of {len(tree.class_names)} classes from {src} into {out}")
        return count


def keys_of(paths: Iterable[str]) -> dict[str, str]:
    """Return a key for each path: the path without its extension, in which nothing has a meaning to webdataset.

    Dots, percent signs and a first underscore become %2E, %25 and %5F. Where paths differ in the extension alone,
    each keeps it after a percent sign (a.jpg and a.png: a%jpg and a%png). No two paths share a key.

    Returns key -> path, in the order of the paths. Raises DataError for a path that is not UTF-8.
    """
    split = {path: (_escaped(os.path.splitext(path)[0]), os.path.splitext(path)[1][1:]) for path in paths}
    shared = Counter(stem for stem, _ in split.values())
    return {(stem if shared[stem] == 1 else f"{stem}%{extension}"): path for path, (stem, extension) in split.items()}


def _escaped(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The path {path!a} is not UTF-8, so it makes no key. Rename the file.") from error
    escaped = path.replace("%", "%25").replace(".", "%2E")
    return "%5F" + escaped[1:] if escaped.startswith("_") else escaped


class _Images:
    """The images of a tree, as samples."""

    def __init__(self, src: Path, labels: dict[str, int]) -> None:
        found = keys_of(labels)
        self.keys, self._paths = list(found), list(found.values())
        self._src, self._labels = src, labels

    def read(self, number: int) -> NewSample:
        path = self._paths[number]
        try:
            data = read_bytes(self._src / path, _MAX_IMAGE)
        except OSError as error:
            raise self._unreadable(path, error) from error
        require_image(data, str(self._src / path))
        return NewSample(self.keys[number], os.path.splitext(path)[1][1:].lower(), data, self._labels[path])

    def stamp(self, number: int) -> str:
        path = self._paths[number]
        try:
            status = os.stat(self._src / path)
        except OSError as error:
            raise self._unreadable(path, error) from error
        return f"{path} {self._labels[path]} {status.st_size} {status.st_mtime_ns}"

    def _unreadable(self, path: str, error: OSError) -> DataError:
        return DataError(
            f"The image {self._src / path} cannot be read: {error.strerror}. Make it readable or remove it, and run "
            "the import again."
        )
