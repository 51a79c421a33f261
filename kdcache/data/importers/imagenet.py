"""ImageNet-1k as it is downloaded: the train archive, a tar of a tar for each class, and the validation archive.

Keys, labels and class names are those of `import_folder` on the unpacked archives, SPLIT/WNID/IMAGE: labels number the
WordNet ids in the order of their names, as the weights of timm do.
"""

import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from kdcache.data.images import IMAGE_EXTENSIONS
from kdcache.data.importers.folder import keys_of
from kdcache.data.importers.imagenet_labels import require_known_classes, validation_labels
from kdcache.data.importers.shard_import import ImportFolder, ImportOptions, random_order
from kdcache.data.importers.tar_source import Part, TarImage, TarImages, unreadable
from kdcache.data.member_names import is_set_aside
from kdcache.data.shard_file import LocalFile, ShardFile
from kdcache.data.tar import Member, members
from kdcache.errors import DataError, UsageError
from kdcache.io.reading import opened
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.workers import in_threads

_CLASS_TAR = re.compile(r"(n[0-9]{8})\.tar")
_WNID = re.compile(r"n[0-9]{8}")
_SHOWN = 3
_EXPECTED = (
    "Name ILSVRC2012_img_train.tar, or ILSVRC2012_img_val.tar with --devkit or --labels. Images in folders of their "
    "classes are imported by `kdcache import folder`"
)


def import_imagenet(
    src: Path,
    out: Path,
    *,
    devkit: Path | None = None,
    labels: Path | None = None,
    subset: bool = False,
    options: ImportOptions | None = None,
    progress: Progress = logged,
) -> int:
    """Write the images of an archive of ImageNet to shards in `out`, in random order, and return their number.

    The archive is read where it lies, without unpacking. Image files are copied unchanged unless they are resized.

    Args:
        src: `ILSVRC2012_img_train.tar`, or `ILSVRC2012_img_val.tar` with one of the next two.
        devkit: `ILSVRC2012_devkit_t12.tar.gz`, or its unpacked folder, for the labels of the validation images.
        labels: list of the labels of the validation images instead; its forms are those of `validation_labels`.
        subset: accept other classes than all 1,000 of ImageNet-1k.
        options: seed, resizing and threads.

    Raises:
        UsageError: options that do not belong together.
        DataError: the archive is another one or damaged, classes are missing, or labels and images do not match.
        FolderHeldError: another process writes `out`.
    """
    if devkit is not None and labels is not None:
        raise UsageError("--devkit and --labels both give the labels of the validation images. Give one of them.")
    options = options or ImportOptions()
    with ImportFolder(out, progress) as folder:
        try:
            with opened(src) as descriptor:
                file = LocalFile(descriptor)
                found = _listed(src, members(str(src), file))
                tars, images = _sorted_out(src, found, progress)
                if tars and (devkit or labels):
                    raise UsageError(
                        f"{src} is the train archive, whose labels are its archives of classes: leave out --devkit "
                        "and --labels, which are for the validation images."
                    )
                if tars:
                    class_names, listed = _train_images(src, file, tars, subset, options, progress)
                else:
                    class_names, listed = _validation_images(src, images, devkit, labels, subset)
        except OSError as error:
            raise unreadable(src, error) from error
        samples = TarImages([str(src)], listed)
        order = random_order([image.key for image in listed], options.seed)
        count = folder.write(samples, order, class_names, options)
        progress.say(f"imported {count} images of {len(class_names)} classes from {src} into {out}")
        return count


def _listed(src: Path, found: Iterable[Member]) -> list[Member]:
    """Return the members of a tar but hidden ones. Raises DataError where it is no whole plain tar."""
    try:
        return [member for member in found if not is_set_aside(member.name)]
    except DataError as error:
        raise DataError(f"{src} cannot be imported as ImageNet. {error}") from error


def _sorted_out(src: Path, found: Sequence[Member], progress: Progress) -> tuple[dict[str, Member], dict[str, Member]]:
    """Return the archives of classes by WordNet id, or the images by file name; one of the two is empty."""
    tars: dict[str, Member] = {}
    images: dict[str, Member] = {}
    others = []
    for member in found:
        name = os.path.basename(member.name)
        match = _CLASS_TAR.fullmatch(name)
        if match is None and not _is_image(name):
            others.append(member.name)
            continue
        kind, key = (images, name) if match is None else (tars, match[1])
        if key in kind:
            raise DataError(f"{src} holds {name} twice. Download the archive again.")
        kind[key] = member
    if bool(tars) == bool(images):
        held = ", ".join(member.name for member in found[:_SHOWN]) or "nothing"
        what = "archives of classes and images side by side" if tars else f"no images and no archive WNID.tar ({held})"
        raise DataError(f"{src} is no archive of ImageNet: it holds {what}. {_EXPECTED}.")
    if others:
        progress.warn(f"{len(others):,} other files in {src} stay out: {', '.join(others[:_SHOWN])}")
    return tars, images


def _train_images(
    src: Path,
    file: ShardFile,
    tars: dict[str, Member],
    subset: bool,
    options: ImportOptions,
    progress: Progress,
) -> tuple[list[str], list[TarImage]]:
    """Return the class names, and the images of all classes by class and name."""
    class_names = sorted(tars)
    require_known_classes(class_names, str(src), subset)
    images: list[TarImage] = []
    list_class = partial(_class_images, src, file)
    with progress.task("listing", total=len(class_names), unit="classes") as task:
        items = [(wnid, tars[wnid]) for wnid in class_names]
        for label, found in enumerate(in_threads(list_class, items, options.workers)):
            images += _as_images(found, dict.fromkeys(found, label))
            task.advance()
    return class_names, images


def _class_images(src: Path, file: ShardFile, item: tuple[str, Member]) -> dict[str, Member]:
    """Return the images in the archive of a class, by the path WNID/NAME."""
    wnid, tar = item
    where = f"{wnid}.tar in {src}"
    found: dict[str, Member] = {}
    part = Part(file, tar.offset, tar.length)
    for member in _listed(src, members(where, part)):
        name = os.path.basename(member.name)
        named = name.partition("_")[0]
        if not _is_image(name) or (_WNID.fullmatch(named) and named != wnid):
            what = f"is an image of the class {named}" if _is_image(name) else "is no image by its extension"
            raise DataError(f"{member.name} in {where} {what}: this is not ImageNet's train archive. {_EXPECTED}.")
        if f"{wnid}/{name}" in found:
            raise DataError(f"{where} holds {name} twice. Download the archive again.")
        found[f"{wnid}/{name}"] = member._replace(offset=tar.offset + member.offset)
    if not found:
        raise DataError(f"There is no image in {where}. Download the archive again.")
    return found


def _validation_images(
    src: Path, images: dict[str, Member], devkit: Path | None, labels: Path | None, subset: bool
) -> tuple[list[str], list[TarImage]]:
    """Return the class names, and the images by name."""
    if devkit is None and labels is None:
        raise UsageError(
            f"{src} holds images and no classes, as the validation archive does: give --devkit "
            "ILSVRC2012_devkit_t12.tar.gz, or --labels FILE with the class of each image."
        )
    class_names, of = validation_labels(sorted(images), devkit, labels, subset)
    by_path = {f"{class_names[of[name]]}/{name}": images[name] for name in sorted(images)}
    return class_names, _as_images(by_path, {path: of[os.path.basename(path)] for path in by_path})


def _as_images(found: dict[str, Member], labels: dict[str, int]) -> list[TarImage]:
    return [
        TarImage(0, one.offset, one.length, path, key, os.path.splitext(path)[1][1:].lower(), labels[path])
        for key, path in keys_of(found).items()
        for one in (found[path],)
    ]


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in IMAGE_EXTENSIONS
