"""The classes of ImageNet-1k, and the labels of its validation images."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NoReturn

from kdcache.data.importers.tar_source import unreadable
from kdcache.errors import DataError
from kdcache.io.archives import read_archive
from kdcache.io.reading import TEXT_LIMIT, read_bytes, read_text

_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_NUMBERED = re.compile(r"ILSVRC2012_val_([0-9]{8})\.[A-Za-z]+")
_WNID = re.compile(r"n[0-9]{8}")
_HEADER = "ImageId"  # of Kaggle's LOC_val_solution.csv


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1k's 1,000 classes in the order of their labels, as timm lists them."""
    from timm.data import ImageNetInfo  # imports torch

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def require_known_classes(class_names: Sequence[str], where: str, subset: bool) -> None:
    """Raise DataError where the classes are not ImageNet-1k's, all 1,000 of them, unless `subset` allows others.

    One class that is missing, as in an incomplete copy, would shift the labels of all classes behind it.
    """
    known = imagenet_classes()
    if subset or tuple(class_names) == known:
        return
    missing, foreign = sorted(set(known) - set(class_names)), sorted(set(class_names) - set(known))
    what = f"{len(missing):,} of them are missing, such as {missing[0]}" if missing else ""
    also = f"it has others, such as {foreign[0]}" if foreign else ""
    raise DataError(
        f"{where} does not have ImageNet-1k's 1,000 classes: {', and '.join(filter(None, (what, also)))}. Labels would "
        "not be those of pretrained weights. Copy the archive again; or give --subset where it is meant to hold other "
        "classes, which are then numbered in the order of their WordNet ids."
    )


def validation_labels(
    names: Sequence[str], devkit: Path | None, labels: Path | None, subset: bool
) -> tuple[list[str], Mapping[str, int]]:
    """Return the class names in the order of their labels, and the label of each validation image by file name.

    Args:
        names: file names of the images, sorted.
        devkit: archive or folder of the devkit; its numbers of classes are not in the order of the WordNet ids, and
            are translated by its `meta.mat`.
        labels: text file with a line for each image: `WNID` in the order of the names, `NAME WNID`, `NAME LABEL` or
            `LABEL`; fields end at spaces or commas, and further ones are ignored. A LABEL is a number from 0 in the
            order of the WordNet ids. Used where `devkit` is None.
        subset: accept other classes than all 1,000 of ImageNet-1k.

    Raises DataError where they cannot be read, and where labels and images do not match.
    """
    if devkit is not None:
        return _from_devkit(names, devkit, subset)
    assert labels is not None
    return _from_list(names, labels, subset)


def _from_devkit(names: Sequence[str], devkit: Path, subset: bool) -> tuple[list[str], dict[str, int]]:
    files = _devkit_files(devkit)
    wnid_of = _wnids_by_number(devkit, files[_META])
    truth = files[_TRUTH].split()
    class_names = sorted(wnid_of.values())
    require_known_classes(class_names, str(devkit), subset)
    label_of = {wnid: label for label, wnid in enumerate(class_names)}
    if len(truth) != len(names):
        _refuse_count(names, devkit, len(truth))
    found: dict[str, int] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        place = int(match[1]) if match else 0
        if not 1 <= place <= len(truth):
            raise DataError(
                f"{name} is not called like an image of ImageNet's validation archive (ILSVRC2012_val_00000001.JPEG to "
                f"{len(truth):08d}), so that the devkit does not tell its class. Give --labels FILE with names."
            )
        number = truth[place - 1]
        if not number.isdigit() or int(number) not in wnid_of:
            raise DataError(f"{_TRUTH} in {devkit} names the class {number!a} in line {place}, which meta.mat lacks.")
        found[name] = label_of[wnid_of[int(number)]]
    return class_names, found


def _devkit_files(devkit: Path) -> dict[str, bytes]:
    """Return the two files of the devkit that are needed, by base name."""
    found: dict[str, bytes] = {}
    try:
        if devkit.is_dir():
            for name in (_TRUTH, _META):
                place = next((path for path in (devkit / "data" / name, devkit / name) if path.is_file()), None)
                if place is not None:
                    found[name] = read_bytes(place)
        else:
            found = read_archive(devkit, (_TRUTH, _META), TEXT_LIMIT)[1]
    except OSError as error:
        raise unreadable(devkit, error) from error
    for name in (_TRUTH, _META):
        if name not in found:
            raise DataError(
                f"There is no {name} in {devkit}. Name ILSVRC2012_devkit_t12.tar.gz, or the folder that it unpacks to."
            )
    return found


def _wnids_by_number(devkit: Path, meta: bytes) -> dict[int, str]:
    """Return the WordNet id of each class by the devkit's number, of the classes that have images."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            "The devkit's meta.mat is a file of MATLAB, which scipy reads, and scipy is not installed. Install it "
            "(`pip install 'kdcache[imagenet]'`), or give --labels FILE with the class of each image."
        ) from error
    try:
        synsets = loadmat(BytesIO(meta), squeeze_me=True)["synsets"]
        return {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets if int(one["num_children"]) == 0}
    except Exception as error:  # scipy raises whatever the damage makes it stumble on
        raise DataError(f"meta.mat in {devkit} cannot be read: {error}. Download the devkit again.") from error


def _from_list(names: Sequence[str], file: Path, subset: bool) -> tuple[list[str], dict[str, int]]:
    fields = _fields(file)
    named = bool(fields) and not (_WNID.fullmatch(fields[0][0]) or fields[0][0].isdigit())
    if len(fields) != len(names):
        _refuse_count(names, file, len(fields))
    if any(len(line) <= named for line in fields):
        place = next(number for number, line in enumerate(fields, start=1) if len(line) <= named)
        raise DataError(f"Line {place} of {file} has no class. Give each line the form of the first.")
    stems = [os.path.splitext(os.path.basename(line[0]))[0] for line in fields] if named else [_stem(n) for n in names]
    classes = dict(zip(stems, (line[named] for line in fields), strict=True))
    missing = next((name for name in names if _stem(name) not in classes), None)
    if missing is not None:
        raise DataError(f"{file} has no line for the image {missing}. Add it, or name the list of these images.")
    class_names, label_of = _classes_of_list(file, set(classes.values()), subset)
    return class_names, {name: label_of(classes[_stem(name)]) for name in names}


def _fields(file: Path) -> list[list[str]]:
    """Return the fields of each line that has some, without a header."""
    try:
        lines = read_text(file).splitlines()
    except OSError as error:
        raise unreadable(file, error) from error
    except UnicodeError as error:
        raise DataError(f"{file} is no text in UTF-8. Name a list with a line for each image.") from error
    fields = [line.replace(",", " ").split() for line in lines]
    return [line for line in fields if line and line[0] != _HEADER]


def _classes_of_list(file: Path, texts: set[str], subset: bool) -> tuple[list[str], Callable[[str], int]]:
    """Return the class names, and the function that makes labels of a list's texts."""
    if all(_WNID.fullmatch(text) for text in texts):
        known = imagenet_classes()
        class_names = sorted(texts) if subset and not texts <= set(known) else list(known)
        foreign = sorted(texts - set(class_names))
        if foreign:
            require_known_classes(sorted(texts), str(file), subset)
        return class_names, {wnid: label for label, wnid in enumerate(class_names)}.__getitem__
    if not all(text.isascii() and text.isdigit() for text in texts):
        text = next(text for text in sorted(texts) if not (text.isascii() and text.isdigit()))
        raise DataError(
            f"{file} names the class {text!a}, which is neither a WordNet id (n01440764) nor a number. Give each line "
            "the form WNID, NAME WNID, NAME LABEL or LABEL."
        )
    class_names = list(imagenet_classes())
    numbers = {int(text) for text in texts}
    if 0 not in numbers or max(numbers) >= len(class_names):
        raise DataError(
            f"The numbers in {file} go from {min(numbers)} to {max(numbers)}: labels go from 0 to 999. Numbers from 1 "
            "are the devkit's (ILSVRC2012_ID), which are not in the order of the classes of pretrained weights: give "
            "--devkit in place of --labels, or a list of WordNet ids."
        )
    return class_names, int


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _refuse_count(names: Sequence[str], file: Path, count: int) -> NoReturn:
    raise DataError(
        f"The archive holds {len(names):,} images, and {file} has {count:,} labels: they do not belong together, or "
        "one of them is incomplete. Name the labels of these images."
    )
