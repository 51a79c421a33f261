"""A tree of images in class folders, SRC/CLASS/.../IMAGE: its classes in the order of their labels, and its images.

What torchvision's ImageFolder accepts silently is reported or refused here, because a wrong class shifts the labels of
all that follow it: folders of a program's own, links that lead back into the tree, numbers in the order of text.
"""

import os
import re
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from kdcache.data.images import IMAGE_EXTENSIONS
from kdcache.errors import DataError
from kdcache.runtime.progress import Progress

#: Names of splits of a data set: `train`, `Val`, and with a year or a noun, such as `train2017` and `test_set`.
_SPLIT = re.compile(
    r"(train|training|val|valid|validation|test|testing|dev|eval|evaluation)([-_. ]?(set|split|data|images?|[0-9]+))*",
    re.IGNORECASE,
)
#: Folders that programs and file systems make. Those with a dot at the beginning are theirs as well.
_NO_CLASSES = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
_NUMBER = re.compile(r"[0-9]+")
_SHOWN = 3


@dataclass
class ImageTree:
    """The images below a folder.

    class_names: names in the order of their labels, in Unicode's normal form C.
    labels: path below the folder -> label; sorted by path within each class.
    others: paths of files that are no images by their extension.
    stray: paths of images in no class folder.
    hidden: paths of folders and files that belong to programs and not to the data.
    again: pairs of paths that lead to one file through links.
    splits: paths of folders directly in a class folder that are named like splits of a data set.
    """

    class_names: list[str]
    labels: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    again: list[tuple[str, str]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)

    def report(self, src: Path, progress: Progress) -> None:
        """Warn about files that are left out, and about names that may be mistakes."""
        if self.hidden:
            progress.warn(
                f"{_count(self.hidden, 'hidden folder or file', 'hidden folders and files')} of programs, which are "
                f"neither classes nor images, stay out: {_shown(self.hidden)}"
            )
        if self.stray:
            progress.warn(
                f"{_count(self.stray, 'image lies', 'images lie')} in {src} itself, in no class folder, and stay out: "
                f"{_shown(self.stray)}. Move them into the folders of their classes to have them imported"
            )
        if self.others:
            progress.warn(
                f"{_count(self.others, 'file is no image', 'files are no images')} by the extension and stay out: "
                f"{_shown(self.others)}"
            )
        if self.again:
            first, second = self.again[0]
            progress.warn(
                f"{_count(self.again, 'file is', 'files are')} reached by another path through links, and imported "
                f"once for each path, such as {first} and {second}. Remove the links where that is not meant"
            )


def read_tree(src: Path, out: Path, *, allow_empty: bool, progress: Progress) -> ImageTree:
    """List the tree below `src`, without opening a file.

    out: folder of the shards, which is skipped if it lies in the tree.
    allow_empty: whether to keep class folders without images as classes without samples.

    Raises DataError when `src` is no such tree, holds splits of a data set in place of classes, or reaches a folder
    twice through links, when a class has no image, and for what cannot be read.
    """
    folders: list[str] = []
    tree = ImageTree([])
    entries = [entry for entry in _entries(src) if not _is_same(entry, out)]
    seen = _Seen(src, out)
    for entry in entries:
        name = entry.name
        if entry.is_dir():
            (tree.hidden if _is_programs(name) else folders).append(name)
        elif _is_programs(name) or not _is_image(name):
            (tree.hidden if name.startswith("._") else tree.others).append(name)
        else:
            tree.stray.append(name)
    _require_classes(src, out, folders, tree.stray)
    _warn_of_split(src, out, folders, progress)
    folders = _in_order(folders, src, progress)
    tree.class_names = [_normal(name) for name in folders]
    for label, name in enumerate(folders):
        images = sorted(seen.walk(name, tree))
        if not images and not allow_empty:
            raise DataError(
                f"There is no image in {src / name}, which is a class by its place. Add files of "
                f"{', '.join(IMAGE_EXTENSIONS)}; or remove the folder, if it is no class; or give --allow-empty, which "
                "keeps its place in the order of the labels."
            )
        tree.labels.update(dict.fromkeys(images, label))
    tree.again = seen.reached_again(tree.labels)
    _warn_of_splits_below(src, out, tree, progress)
    return tree


class _Seen:
    """The folders that were listed, so that none is listed twice through links."""

    def __init__(self, src: Path, out: Path) -> None:
        self._src, self._out = src, out
        self._has_links = False
        # (device, inode) -> path and whether a link led there.
        self._folders: dict[tuple[int, int], tuple[str, bool]] = {}
        self._enter("", False)

    def walk(self, folder: str, tree: ImageTree, linked: bool = False) -> Iterator[str]:
        """Yield the paths of the images in a folder of the tree and below it; note in `tree` what else is there."""
        linked = linked or os.path.islink(self._src / folder)
        self._enter(folder, linked)
        for entry in _entries(self._src / folder):
            path = f"{folder}/{entry.name}"
            if entry.is_dir():
                if _is_same(entry, self._out):
                    continue
                if _is_programs(entry.name):
                    tree.hidden.append(path)
                else:
                    if "/" not in folder and _is_split(entry.name):
                        tree.splits.append(path)
                    yield from self.walk(path, tree, linked)
                continue
            self._has_links |= entry.is_symlink()
            if entry.name.startswith("._"):
                tree.hidden.append(path)
            elif _is_image(entry.name):
                yield path
            else:
                tree.others.append(path)

    def reached_again(self, paths: dict[str, int]) -> list[tuple[str, str]]:
        """Return the pairs of these paths that are one file, because a link leads to it."""
        if not self._has_links:
            return []  # and nobody waits for a million files to be looked at
        first: dict[tuple[int, int], str] = {}
        again = []
        for path in paths:
            status = os.stat(self._src / path)
            other = first.setdefault((status.st_dev, status.st_ino), path)
            # Hard links are files of their own: programs that look for equal files make them.
            if other != path and (os.path.islink(self._src / path) or os.path.islink(self._src / other)):
                again.append((other, path))
        return again

    def _enter(self, folder: str, linked: bool) -> None:
        status = os.stat(self._src / folder)
        other, other_linked = self._folders.setdefault((status.st_dev, status.st_ino), (folder, linked))
        # Without a link two folders that look like one are a file system's that does not number its files.
        if other != folder and (linked or other_linked):
            raise DataError(
                f"{self._src / folder} leads through a link to the folder {self._src / other}, which is in the tree "
                "already: its images would come again, under another name or class. Remove the link, and run the "
                "import again."
            )


def _is_same(entry: os.DirEntry[str], folder: Path) -> bool:
    """Return whether an entry is this very folder."""
    return entry.is_dir() and folder.exists() and os.path.samefile(entry.path, folder)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, by name. Raises DataError if it cannot be read, or holds a broken link."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in found:
            if not (entry.is_file() or entry.is_dir()):
                if entry.is_symlink() and not os.path.exists(entry.path):
                    raise DataError(
                        f"{entry.path} is a link to {os.readlink(entry.path)}, which is not there. Restore that, or "
                        "remove the link, and run the import again."
                    )
                raise DataError(f"{entry.path} is neither a file nor a folder. Remove it, and run the import again.")
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be read: {error.strerror}. Name a tree of the form SRC/CLASS/.../IMAGE, all "
            "of which you may read."
        ) from error
    return found


def _require_classes(src: Path, out: Path, folders: Sequence[str], stray: Sequence[str]) -> None:
    if not folders:
        images = f", but {len(stray)} images: put those of each class into a folder" if stray else ""
        raise DataError(f"There are no class folders in {src}{images}. Name a tree of the form SRC/CLASS/.../IMAGE.")
    splits = [name for name in folders if _is_split(name)]
    if len(splits) == len(folders) or len(splits) > 1:
        beside = "" if len(splits) == len(folders) else f", beside {_shown([n for n in folders if n not in splits])}"
        raise DataError(
            f"{src} holds {', '.join(splits)}{beside}: these are named like splits of a data set, whose images would "
            f"become classes. Import each split by itself: {_commands(src, out, splits)}. If they are classes, rename "
            "them, and run the import again."
        )
    normal: dict[str, str] = {}
    for name in folders:
        if not _is_text(name):
            raise DataError(f"The class folder {name!a} in {src} is not called in UTF-8. Rename it.")
        other = normal.setdefault(_normal(name), name)
        if other != name:
            raise DataError(
                f"{src} holds two class folders {name}, which differ in the way their letters are encoded alone "
                f"({other!a} and {name!a}). Merge them, and run the import again."
            )


def _warn_of_split(src: Path, out: Path, folders: Sequence[str], progress: Progress) -> None:
    """Warn about one split beside other folders; several are refused."""
    splits = [name for name in folders if _is_split(name)]
    if splits:
        others = [name for name in folders if name not in splits]
        progress.warn(
            f"the folder {splits[0]} in {src} is named like a split of a data set, and is imported as a class beside "
            f"{_shown(others)}. If it is a split, import it by itself: {_commands(src, out, splits)}"
        )


def _warn_of_splits_below(src: Path, out: Path, tree: ImageTree, progress: Progress) -> None:
    """Warn about splits one level too far down: in the only class folder, or several in one of many class folders."""
    if not tree.splits:
        return
    if len(tree.class_names) == 1:
        progress.warn(
            f"{src} holds one class folder, {tree.class_names[0]}, and in it {_shown(tree.splits)}, which are named "
            "like splits of a data set: all their images are imported as one class. If they are splits, import each by "
            f"itself: {_commands(src, out, tree.splits)}"
        )
    elif len(names := sorted({os.path.basename(path) for path in tree.splits})) > 1:
        progress.warn(
            f"class folders hold {_shown(tree.splits)}, which are named like splits of a data set: the images of "
            f"{_shown(names)} are imported together. If they are splits, move each to a folder of its own, of the form "
            "SPLIT/CLASS/IMAGE, and run `kdcache import folder SPLIT OUT` for each"
        )


def _commands(src: Path, out: Path, splits: Sequence[str]) -> str:
    """Return the commands that import splits one by one; each goes to a folder of its name in `out`."""
    return " and ".join(
        f"`kdcache import folder {shlex.quote(str(src / path))} {shlex.quote(str(out / os.path.basename(path)))}`"
        for path in splits
    )


def _in_order(folders: Sequence[str], src: Path, progress: Progress) -> list[str]:
    """Return the class folders in the order of their labels: by number if all are numbers, else by name."""
    by_name = sorted(folders, key=_normal)
    _warn_of_case(by_name, progress)
    numbers = [name for name in by_name if _NUMBER.fullmatch(name)]
    by_number = sorted(numbers, key=int)
    if len(numbers) < len(folders):
        if by_number != numbers:
            progress.warn(
                f"some class folders are numbers, and some are not, so all are in the order of text: "
                f"{_shown(by_name)}. classes.json lists them by label"
            )
        return by_name
    values = [int(name) for name in by_number]
    for name, other in pairwise(by_number):
        if int(name) == int(other):
            raise DataError(
                f"{src} holds the class folders {name} and {other}, which are one number. Merge them, or give each "
                "another name, and run the import again."
            )
    if by_number != by_name:
        progress.say(
            f"the class folders are whole numbers, and in their order: {_shown(by_number)}; torchvision's ImageFolder "
            f"sorts them as text: {_shown(by_name)}"
        )
    if values != list(range(len(values))):
        label = next(label for label, value in enumerate(values) if value != label)
        progress.warn(
            f"the class folders are numbers, but not 0 to {len(values) - 1}: folder {by_number[label]} has the label "
            f"{label}, and so on by their order. Where the numbers are the labels, make a folder for each that is "
            "missing from 0 on, and give --allow-empty"
        )
    return by_number


def _warn_of_case(by_name: Sequence[str], progress: Progress) -> None:
    folded: dict[str, str] = {}
    for name in by_name:
        other = folded.setdefault(_normal(name).casefold(), name)
        if other != name:
            progress.warn(
                f"the class folders {other} and {name} differ in upper and lower case alone, and are two classes. "
                "Merge them where one is meant"
            )


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_split(name: str) -> bool:
    return _SPLIT.fullmatch(name) is not None


def _is_programs(name: str) -> bool:
    return name.startswith(".") or name in _NO_CLASSES


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in IMAGE_EXTENSIONS


def _count(items: Sequence[object], one: str, many: str) -> str:
    return f"{len(items):,} {one if len(items) == 1 else many}"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
