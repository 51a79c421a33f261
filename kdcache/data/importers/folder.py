"""A torchvision ImageFolder tree, SRC/CLASS/.../IMAGE, as shards."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from kdcache.data.images import image_size
from kdcache.data.importers.image_tree import read_tree
from kdcache.data.importers.shuffling import shuffled
from kdcache.data.writer import NewSample, new_shards, write_shards
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
    progress: Progress = logged,
) -> int:
    """Write the images of `src` to shards in `out`, in random order, and return their number.

    Classes and their labels are those of torchvision's ImageFolder (the folders in `src`, by name), with two
    exceptions: folders of programs (`.ipynb_checkpoints`, `__MACOSX`) are no classes, and whole numbers are in the
    order of numbers. Links are followed. Files that are left out, because their extension is no image's or they are in
    no class folder, are listed in warnings. Image files are copied unchanged. Keys are the paths below `src` without
    extension; characters with a meaning to webdataset are percent-encoded.

    allow_empty: keep class folders without images as classes without samples.

    Raises DataError as `read_tree` does, when an image has a broken header, and as `write_shards` does;
    FolderHeldError when another process writes `out`.
    """
    with new_shards(out, progress):  # before millions of files are listed
        tree = read_tree(src, out, allow_empty=allow_empty, progress=progress)
        tree.report(src, progress)
        labels, class_names = tree.labels, tree.class_names
        if not labels:
            raise DataError(f"There is no image in {src}. Name a tree of the form SRC/CLASS/.../IMAGE.")
        paths = keys_of(labels)
        order = shuffled(paths, seed)
        with progress.task("importing", total=len(order)) as task:

            def samples() -> Iterator[NewSample]:
                for key in order:
                    yield _read(src, paths[key], key, labels[paths[key]])
                    task.advance()

            write_shards(samples(), out, samples_per_shard=samples_per_shard, class_names=class_names)
        progress.say(f"imported {len(order)} images of {len(class_names)} classes from {src} into {out}")
        return len(order)


def keys_of(paths: Iterable[str]) -> dict[str, str]:
    """A key for each path: the path without its extension, in which nothing has a meaning to webdataset.

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


def _read(src: Path, path: str, key: str, label: int) -> NewSample:
    try:
        data = read_bytes(src / path, _MAX_IMAGE)
    except OSError as error:
        raise DataError(
            f"The image {src / path} cannot be read: {error.strerror}. Make it readable or remove it, and run the "
            "import again."
        ) from error
    try:
        image_size(BytesIO(data))
    except ValueError as error:
        raise DataError(
            f"{src / path} cannot be read as an image: {error}. Replace or remove it, and run the import again."
        ) from error
    return NewSample(key, os.path.splitext(path)[1][1:].lower(), data, label)
