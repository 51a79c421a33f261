"""Folders of images become the shards that torchvision would see."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder
from webdataset.tariterators import base_plus_ext

from kdcache.data.importers.folder import import_folder, keys_of
from kdcache.data.index import Index, open_index
from kdcache.data.member_names import split_name
from kdcache.data.reader import SampleReader
from kdcache.data.shards import INCOMPLETE
from kdcache.errors import DataError
from support.shards import draw_image, encode_image
from support.small_job import Heard

FILES = {
    "n01440764/n01440764_10026.JPEG": 0,
    "n01440764/sub.folder/a.b.png": 0,
    "n01440764/x.jpg": 0,
    "n01440764/x.png": 0,
    "n01440764/X.jpg": 0,
    "n01440764/x.JPG": 0,
    "Zebra (ä)/100%.jpg": 1,
    "__zoo__/_1.jpeg": 2,
    "__zoo__/.hidden.jpg": 2,
}
"""Path -> number of the class among the classes here, in the order written."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, (path, label) in enumerate(FILES.items()):
        file = tmp_path / "tree" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw_image(np.random.default_rng(number), 8, 10, label)
        file.write_bytes(encode_image(pixels, "png" if path.lower().endswith("png") else "jpg"))
    (tmp_path / "tree" / "n01440764" / "notes.txt").write_text("not an image")
    (tmp_path / "tree" / "stray.jpg").write_text("in no class")
    return tmp_path / "tree"


def labels_by_content(index: Index) -> dict[bytes, int]:
    with SampleReader(index) as reader:
        images = reader.read(np.arange(len(index)))
    return dict(zip(images, index.label.tolist(), strict=True))


@pytest.mark.parametrize("place", ["out", "n01440764/out"])
def test_a_folder_of_shards_within_the_tree_is_no_class(tree: Path, place: str) -> None:
    """It is made, and held, before the tree is looked through."""
    heard = Heard()
    assert import_folder(tree, tree / place, progress=heard) == len(FILES)
    assert len(open_index(tree / place).class_names or ()) == 3
    assert not any(".kdcache-owner" in line for line in heard.warned)


def test_classes_labels_and_bytes_are_those_of_torchvision(tree: Path, tmp_path: Path) -> None:
    assert import_folder(tree, tmp_path / "out", samples_per_shard=4) == len(FILES)
    index = open_index(tmp_path / "out")
    theirs = ImageFolder(str(tree))
    assert list(index.class_names or ()) == theirs.classes
    assert labels_by_content(index) == {Path(path).read_bytes(): label for path, label in theirs.samples}
    assert len(index) == len(theirs) == len(FILES)


def test_links_are_followed(tree: Path, tmp_path: Path) -> None:
    import_folder(tree, tmp_path / "a")
    (tmp_path / "linked").mkdir()
    for folder in tree.iterdir():
        if folder.is_dir():
            (tmp_path / "linked" / folder.name).symlink_to(folder)
    (tree / "n01440764" / "sub.folder").rename(tmp_path / "elsewhere")
    (tree / "n01440764" / "sub.folder").symlink_to(tmp_path / "elsewhere")
    import_folder(tmp_path / "linked", tmp_path / "b")
    assert open_index(tmp_path / "a").fingerprint == open_index(tmp_path / "b").fingerprint


def test_keys_tell_the_path_and_extensions_are_lower_case(tree: Path, tmp_path: Path) -> None:
    import_folder(tree, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = {name for name in tar.getnames() if not name.endswith(".cls")}
    assert names == {
        "n01440764/n01440764_10026.jpeg",
        "n01440764/sub%2Efolder/a%2Eb.png",
        "n01440764/x%jpg.jpg",
        "n01440764/x%png.png",
        "n01440764/X.jpg",
        "n01440764/x%JPG.jpg",
        "Zebra (ä)/100%25.jpg",
        "%5F_zoo__/_1.jpeg",
        "%5F_zoo__/%2Ehidden.jpg",
    }


part = st.text(st.sampled_from("ab._%2E5FJ"), min_size=1, max_size=6).filter(lambda text: text.strip("."))
paths = st.lists(
    st.builds(
        lambda folders, stem, ext: "/".join([*folders, stem + ext]),
        st.lists(part, min_size=1, max_size=2),
        part,
        st.sampled_from([".jpg", ".JPG", ".jpeg", ".png"]),
    ),
    unique=True,
    max_size=12,
)


@given(paths)
def test_every_path_has_a_key_of_its_own_that_webdataset_reads_as_written(found: list[str]) -> None:
    keys = keys_of(found)
    assert list(keys.values()) == found
    for key in keys:
        assert "." not in key
        assert base_plus_ext(f"{key}.jpg") == split_name(f"{key}.jpg") == (key, "jpg")


def test_the_order_is_random_and_fixed_by_the_seed(tree: Path, tmp_path: Path) -> None:
    def names(seed: int) -> list[str]:
        out = tmp_path / f"out-{seed}-{len(list(tmp_path.iterdir()))}"
        import_folder(tree, out, seed=seed, samples_per_shard=100)
        with tarfile.open(out / "shard-000000.tar") as tar:
            return [name for name in tar.getnames() if not name.endswith(".cls")]

    first, again, other = names(0), names(0), names(1)
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)
    assert first != sorted(first)


def broken_header(tree: Path) -> None:
    (tree / "n01440764" / "x.jpg").write_bytes(b"<html>")


def empty_class(tree: Path) -> None:
    (tree / "empty").mkdir()


def no_classes(tree: Path) -> None:
    tree.rename(tree.parent / "away")
    tree.mkdir()


def no_tree(tree: Path) -> None:
    tree.rename(tree.parent / "away")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_header, r"n01440764/x\.jpg cannot be read as an image"),
        (empty_class, "no image in .*empty"),
        (empty_class, "--allow-empty"),
        (no_classes, "no class folders"),
        (no_tree, "cannot be read: No such file"),
    ],
)
def test_what_is_no_tree_of_images_is_refused(tree: Path, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(tree)
    with pytest.raises(DataError, match=message):
        import_folder(tree, tmp_path / "out")
    assert list((tmp_path / "out").glob("*.tar")) == []


def test_once_mended_the_same_import_goes_through(tree: Path, tmp_path: Path) -> None:
    good = (tree / "n01440764" / "x.jpg").read_bytes()
    broken_header(tree)
    with pytest.raises(DataError):
        import_folder(tree, tmp_path / "out")
    assert (tmp_path / "out" / INCOMPLETE).exists()
    (tree / "n01440764" / "x.jpg").write_bytes(good)
    import_folder(tree, tmp_path / "out")
    assert len(open_index(tmp_path / "out")) == len(FILES)


def test_a_folder_with_shards_is_refused_before_a_file_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.tar").touch()
    with pytest.raises(DataError, match=r"full already holds a\.tar"):
        import_folder(tmp_path / "no-such-tree", tmp_path / "full")
