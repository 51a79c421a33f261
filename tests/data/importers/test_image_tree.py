"""Trees of images that are not what they seem: refused or told, and never imported with other labels in silence."""

import json
import os
import re
import shlex
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from kdcache.data.importers.folder import import_folder
from kdcache.data.index import open_index
from kdcache.errors import DataError
from support.command_line import kdcache
from support.indexing import Listener
from support.shards import draw_image, encode_image

IMAGE = encode_image(draw_image(np.random.default_rng(0), 6, 8, 0), "jpg")


def make(src: Path, *paths: str) -> Path:
    """A tree with an image at each path; nothing but a folder where the path ends with a slash."""
    for path in paths:
        file = src / path
        if path.endswith("/"):
            file.mkdir(parents=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(IMAGE)
    return src


def imported(src: Path, **options: bool) -> tuple[dict[str, int], list[str], list[str]]:
    """Key -> label, the names of the classes, and what was told."""
    listener = Listener()
    out = src.parent / "out"
    import_folder(src, out, progress=listener, **options)
    index = open_index(out)
    labels = {index.key(row): int(label) for row, label in enumerate(index.label)}
    return labels, json.loads((out / "classes.json").read_text()), listener.warnings


def refusal(src: Path) -> str:
    with pytest.raises(DataError) as caught:
        import_folder(src, src.parent / "out")
    assert not (src.parent / "out").exists()
    return str(caught.value)


# Links


def test_a_circle_of_links_is_refused_by_name(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "b/2.jpg")
    (src / "a" / "back").symlink_to(src)
    assert re.search(rf"{src}/a/back leads through a link to the folder {src}/?, .*Remove the link", refusal(src))
    (src / "a" / "back").unlink()
    (src / "a" / "self").symlink_to(".")
    assert f"{src}/a/self leads through a link to the folder {src}/a," in refusal(src)


@pytest.mark.parametrize("link", ["b", "a/again", "0"])
def test_a_folder_that_a_link_reaches_again_is_refused_by_name(tmp_path: Path, link: str) -> None:
    src = make(tmp_path / "src", "a/x/1.jpg", "c/2.jpg")
    (src / link).symlink_to(src / ("a/x" if link == "a/again" else "a"))
    assert "through a link to the folder" in refusal(src)


def test_folders_and_files_elsewhere_are_followed(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "a/1.jpg")
    make(tmp_path / "pool", "b/2.jpg", "3.jpg")
    (src / "b").symlink_to(tmp_path / "pool" / "b")
    (src / "a" / "3.jpg").symlink_to(tmp_path / "pool" / "3.jpg")
    assert imported(src) == ({"a/1": 0, "a/3": 0, "b/2": 1}, ["a", "b"], [])


def test_files_that_links_reach_again_are_told(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "b/2.jpg")
    (src / "b" / "3.jpg").symlink_to(src / "a" / "1.jpg")
    os.link(src / "b" / "2.jpg", src / "b" / "4.jpg")  # a file of its own
    labels, _, warnings = imported(src)
    assert labels == {"a/1": 0, "b/2": 1, "b/3": 1, "b/4": 1}
    (warning,) = warnings
    assert warning.startswith("1 file is reached by another path through links")
    assert "such as a/1.jpg and b/3.jpg" in warning


@pytest.mark.parametrize("place", ["c", "a/x.jpg", "a/notes"])
def test_a_link_that_leads_nowhere_is_refused_by_name(tmp_path: Path, place: str) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "b/2.jpg")
    (src / place).symlink_to("nowhere")
    assert f"{src / place} is a link to nowhere, which is not there" in refusal(src)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "b/2.jpg")
    os.mkfifo(src / "a" / "x.jpg")
    assert f"{src}/a/x.jpg is neither a file nor a folder" in refusal(src)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused_by_name(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "a/x/2.jpg")
    (src / "a" / "x").chmod(0)
    assert f"The folder {src}/a/x cannot be read" in refusal(src)


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "a/x/2.jpg")
    scandir = os.scandir

    def closed(path: Path) -> object:
        if str(path).endswith("a/x"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert f"The folder {src}/a/x cannot be read: Permission denied" in refusal(src)


# What is no class


def test_folders_of_programs_are_no_classes(tmp_path: Path) -> None:
    src = make(
        tmp_path / "src",
        ".ipynb_checkpoints/1-checkpoint.jpg",
        "__MACOSX/._1.jpg",
        "a/1.jpg",
        "a/._1.jpg",
        "a/.ipynb_checkpoints/1-checkpoint.jpg",
        "b/2.jpg",
        "b/.2.jpg",
    )
    labels, names, warnings = imported(src)
    assert labels == {"a/1": 0, "b/2": 1, "b/%2E2": 1}
    assert names == ["a", "b"]
    (warning,) = warnings
    assert warning.startswith("4 hidden folders and files of programs")
    assert ".ipynb_checkpoints, __MACOSX, " in warning


def test_parts_of_a_data_set_are_refused_with_the_commands_that_are_meant(tmp_path: Path) -> None:
    src = make(tmp_path / "my images", "train/a/1.jpg", "train/b/2.jpg", "Val/a/3.jpg", "Val/b/4.jpg", "notes.txt")
    refused = kdcache("import", "folder", src, tmp_path / "out")
    assert refused.returncode == 1
    commands = re.findall(r"`kdcache (.+?)`", refused.stderr)
    assert len(commands) == 2
    for command in commands:
        done = kdcache(*shlex.split(command))
        assert done.returncode == 0, done.stderr
    for part, count in (("train", 2), ("Val", 2)):
        index = open_index(tmp_path / "out" / part)
        assert (len(index), index.class_names) == (count, ("a", "b"))


@pytest.mark.parametrize("names", [("train", "val", "extra"), ("train2017", "val2017"), ("Train_Set", "test_set", "a")])
def test_splits_beside_another_folder_are_refused_with_the_commands_that_are_meant(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    src = make(tmp_path / "src", *(f"{name}/cat/1.jpg" for name in names))
    message = refusal(src)
    for name in names:
        is_split = name not in ("extra", "a")
        assert (f"`kdcache import folder {src / name} {tmp_path / 'out' / name}`" in message) == is_split
    assert "If they are classes, rename them" in message


def test_one_folder_that_is_called_like_a_split_is_a_class_with_a_warning(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "train/1.jpg", "car/2.jpg")
    labels, _, warnings = imported(src)
    assert labels == {"car/2": 0, "train/1": 1}
    (warning,) = warnings
    assert warning.startswith(f"the folder train in {src} is named like a split of a data set, and is imported as a ")
    assert (
        f"beside car. If it is a split, import it by itself: `kdcache import folder {src}/train {tmp_path}/out/train`"
        in (warning)
    )


def test_splits_in_the_only_class_folder_are_told_with_the_commands_that_are_meant(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "pets/train/cat/1.jpg", "pets/val/cat/2.jpg")
    labels, names, (warning,) = imported(src)
    assert (set(labels.values()), names) == ({0}, ["pets"])
    assert warning.startswith(
        f"{src} holds one class folder, pets, and in it pets/train, pets/val, which are named like"
    )
    for split in ("train", "val"):
        assert f"`kdcache import folder {src}/pets/{split} {tmp_path}/out/{split}`" in warning


def test_splits_in_each_of_several_class_folders_are_told(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "cat/train/1.jpg", "cat/val/2.jpg", "dog/train/3.jpg", "dog/val/4.jpg")
    _, names, (warning,) = imported(src)
    assert names == ["cat", "dog"]
    assert "the images of train, val are imported together" in warning


def test_classes_whose_names_only_begin_like_a_split_are_taken_silently(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "trainer/1.jpg", "valley/2.jpg", "testudo/3.jpg", "devil/red/4.jpg")
    assert imported(src)[2] == []


def test_images_in_no_class_and_other_files_are_told(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "1.jpg", "2.png")
    (src / "a" / "notes.txt").touch()
    (src / "labels.csv").touch()
    labels, _, warnings = imported(src)
    assert labels == {"a/1": 0}
    stray, others = warnings
    assert stray.startswith(f"2 images lie in {src} itself, in no class folder, and stay out: 1.jpg, 2.png.")
    assert others.startswith("2 files are no images by the extension and stay out: labels.csv, a/notes.txt")


def test_images_without_any_class_folder_are_refused(tmp_path: Path) -> None:
    assert "no class folders in" in refusal(make(tmp_path / "src", "1.jpg", "2.jpg"))


def test_an_empty_class_is_refused_or_keeps_its_place(tmp_path: Path) -> None:
    src = make(tmp_path / "src", "a/1.jpg", "b/", "c/2.jpg")
    assert re.search(rf"no image in {src}/b, .*--allow-empty, which keeps its place", refusal(src))
    assert imported(src, allow_empty=True)[:2] == ({"a/1": 0, "c/2": 2}, ["a", "b", "c"])
    theirs = ImageFolder(str(src), allow_empty=True)
    assert [label for _, label in theirs.samples] == [0, 2]
    assert kdcache("import", "folder", src, tmp_path / "again", "--allow-empty").returncode == 0


def test_a_tree_without_any_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image in"):
        import_folder(make(tmp_path / "src", "a/"), tmp_path / "out", allow_empty=True)


# The order of classes


def test_whole_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    """As in ImageNet-V2, whose folders 0 to 999 are the labels."""
    src = make(tmp_path / "src", *(f"{number}/x.jpg" for number in range(12)))
    listener = Listener()
    import_folder(src, tmp_path / "out", progress=listener)
    index = open_index(tmp_path / "out")
    assert index.class_names == tuple(str(number) for number in range(12))
    assert {index.key(row): int(label) for row, label in enumerate(index.label)} == {
        f"{number}/x": number for number in range(12)
    }
    assert listener.warnings == []
    assert listener.lines[0] == (
        "the class folders are whole numbers, and in their order: 0, 1, 2, ...; torchvision's ImageFolder sorts them "
        "as text: 0, 1, 10, ..."
    )


def test_zeros_in_front_change_nothing(tmp_path: Path) -> None:
    listener = Listener()
    src = make(tmp_path / "src", *(f"{number:04d}/x.jpg" for number in range(12)))
    import_folder(src, tmp_path / "out", progress=listener)
    assert len(listener.lines) == 1
    assert open_index(tmp_path / "out").class_names == tuple(f"{number:04d}" for number in range(12))


@pytest.mark.parametrize(
    ("names", "expected", "words"),
    [
        (["1", "2", "10"], ["1", "2", "10"], "numbers, but not 0 to 2: folder 1 has the label 0"),
        (["0", "7", "10"], ["0", "7", "10"], "folder 7 has the label 1.*--allow-empty"),
        (["2", "10", "other"], ["10", "2", "other"], "some class folders are numbers, and some are not.*10, 2, other"),
        (["Cat", "cat", "dog"], ["Cat", "cat", "dog"], "Cat and cat differ in upper and lower case alone"),
    ],
)
def test_an_order_that_may_not_be_meant_is_told(
    tmp_path: Path, names: list[str], expected: list[str], words: str
) -> None:
    labels, found, warnings = imported(make(tmp_path / "src", *(f"{name}/x.jpg" for name in names)))
    assert found == expected
    assert labels == {f"{name}/x": label for label, name in enumerate(expected)}
    assert len(warnings) == 1
    assert re.search(words, warnings[0])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1", "01"], "01 and 1, which are one number"),
        ([unicodedata.normalize(form, "é") for form in ("NFC", "NFD")], "differ in the way their letters are encoded"),
        (["a", os.fsdecode(b"\xff")], "not called in UTF-8"),
    ],
)
def test_names_that_mean_one_class_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    assert words in refusal(make(tmp_path / "src", *(f"{name}/x.jpg" for name in names)))


def test_names_are_kept_in_one_normal_form(tmp_path: Path) -> None:
    """So that train and val have the same classes, though macOS has unpacked one of them."""
    found = set()
    for form in ("NFC", "NFD"):
        src = make(tmp_path / form / "src", unicodedata.normalize(form, "éa/x.jpg"), "eb/x.jpg", "f/x.jpg")
        labels, names, _ = imported(src)
        found.add((tuple(names), tuple(sorted(labels.values()))))
    assert found == {(("eb", "f", "éa"), (0, 1, 2))}


def test_files_that_differ_in_case_or_encoding_alone_are_all_there(tmp_path: Path) -> None:
    names = ["x.jpg", "X.jpg", "x.JPG", *(unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))]
    labels, _, _ = imported(make(tmp_path / "src", *(f"a/{name}" for name in names)))
    assert len(labels) == 5
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert len(set(tar.getnames())) == 10
