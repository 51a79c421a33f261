"""Fashion-MNIST, from whichever place it comes."""

import gzip
import io
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.data.importers import fashion_mnist
from kdcache.data.importers.fashion_mnist import (
    CLASS_NAMES,
    fashion_mnist_sources,
    import_fashion_mnist,
)
from kdcache.data.importers.idx import read_idx
from kdcache.data.index import Index, open_index
from kdcache.data.reader import SampleReader
from kdcache.data.sample.make import COUNTS, make_sample
from kdcache.data.shards import expand_data
from kdcache.errors import DataError, UsageError
from kdcache.runtime.progress import Silent


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append("warning: " + line)


def idx(array: np.ndarray) -> bytes:
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sides + array.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
LABELS = (np.arange(30) % 10).astype(np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with 30 images a split, in the original's files."""
    folder = tmp_path / "source"
    folder.mkdir()
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    return folder


def pixels(index: Index) -> dict[str, np.ndarray]:
    with SampleReader(index) as reader:
        images = reader.read(np.arange(len(index)))
    return {index.key(i): np.asarray(Image.open(io.BytesIO(image))) for i, image in enumerate(images)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_pixel_and_label_arrives(source: Path, tmp_path: Path, split: str) -> None:
    assert import_fashion_mnist(tmp_path / "out", split=split, source=source, samples_per_shard=8) == 30
    index = open_index(tmp_path / "out")
    assert index.class_names == CLASS_NAMES
    assert len(index.shards) == 4
    found = pixels(index)
    assert set(found) == {f"{split}-{number:05d}" for number in range(30)}
    for i in range(30):
        number = int(index.key(i)[-5:])
        assert (index.height[i], index.width[i], index.label[i]) == (28, 28, LABELS[number])
        np.testing.assert_array_equal(found[index.key(i)], IMAGES[number])


def keys_in_order(folder: Path) -> list[str]:
    index = open_index(folder)
    return [index.key(int(i)) for i in np.lexsort((index.offset, index.shard))]


def test_a_limit_takes_the_first_of_the_random_order(source: Path, tmp_path: Path) -> None:
    import_fashion_mnist(tmp_path / "all", split="train", source=source)
    import_fashion_mnist(tmp_path / "some", split="train", source=source, limit=12)
    import_fashion_mnist(tmp_path / "other", split="train", source=source, limit=12, seed=1)
    everything = keys_in_order(tmp_path / "all")
    assert keys_in_order(tmp_path / "some") == everything[:12]
    assert everything != sorted(everything)
    assert set(keys_in_order(tmp_path / "other")) != set(everything[:12])


def test_a_limit_beyond_the_source_is_said(source: Path, tmp_path: Path) -> None:
    said = Said()
    assert import_fashion_mnist(tmp_path / "out", split="test", source=source, limit=31, progress=said) == 30
    assert said.lines[0].startswith("warning: ")
    assert "fewer than the limit of 31" in said.lines[0]


def test_the_same_import_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        import_fashion_mnist(tmp_path / name, split="train", source=source, samples_per_shard=10)
    for one, other in zip(expand_data(tmp_path / "a"), expand_data(tmp_path / "b"), strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


# Sources


def test_the_source_is_told(source: Path, tmp_path: Path) -> None:
    said = Said()
    import_fashion_mnist(tmp_path / "a", split="train", source=source, limit=1, progress=said)
    import_fashion_mnist(tmp_path / "b", split="train", source="sample", limit=1, progress=said)
    assert str(source) in said.lines[0]
    assert "the sample that kdcache ships" in said.lines[1]


def test_debians_package_is_taken_before_the_sample(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", source)
    assert list(fashion_mnist_sources()) == ["debian", "sample"]
    assert import_fashion_mnist(tmp_path / "a", split="train") == 30
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "missing")
    assert list(fashion_mnist_sources()) == ["sample"]
    assert import_fashion_mnist(tmp_path / "b", split="test", limit=40) == 40


def test_the_shipped_sample_is_a_small_part_of_the_whole_set() -> None:
    folder = files("kdcache.data") / "sample"
    sizes = [len(file.read_bytes()) for file in folder.iterdir() if file.name.endswith(".xz")]
    assert sum(sizes) <= 5_000_000
    assert COUNTS == {"train": 6000, "t10k": 7000}
    for split, count in COUNTS.items():
        images = read_idx(folder / f"{split}-images-idx3-ubyte.xz", 3)
        labels = read_idx(folder / f"{split}-labels-idx1-ubyte.xz", 1)
        assert images.shape == (count, 28, 28)
        shares = np.bincount(labels, minlength=10) / count
        assert shares.min() > 0.09
        assert shares.max() < 0.11
    assert "Copyright (c) 2017 Zalando SE" in (folder / "README.md").read_text("utf-8")


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("split", list(COUNTS))
def test_the_shipped_sample_is_the_beginning_of_the_whole_set(split: str, kind: str) -> None:
    name, dimensions = f"{split}-{kind}-ubyte", int(kind[-1])
    whole = read_idx(fashion_mnist.DEBIAN / f"{name}.gz", dimensions)
    shipped = read_idx(files("kdcache.data") / "sample" / f"{name}.xz", dimensions)
    np.testing.assert_array_equal(shipped, whole[: len(shipped)])


def test_a_sample_can_be_made_and_imported_like_the_whole_set(source: Path, tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    make_sample(source, tmp_path / "sample", {"train": 20, "t10k": 10})
    import_fashion_mnist(tmp_path / "out", split="train", source=tmp_path / "sample")
    assert sorted(keys_in_order(tmp_path / "out")) == [f"train-{number:05d}" for number in range(20)]
    with pytest.raises(DataError, match="30 entries, not 6000"):
        make_sample(source, tmp_path / "sample")


# What is refused


def lose(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").unlink()


def cut(folder: Path) -> None:
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-2000])


def shorten(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)[:-1]))


def swap(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes((folder / "train-labels-idx1-ubyte.gz").read_bytes())


def replace_by_text(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_text("<html>404</html>")


def too_few_labels(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[1:])))


def another_set(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS + 1)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose, r"no train-labels-idx1-ubyte\.gz in .* or leave --source out"),
        (cut, r"train-images-idx3-ubyte\.gz cannot be used"),
        (shorten, r"holds 23519 bytes and should hold 23520"),
        (swap, "no IDX file of bytes with 3 dimensions"),
        (replace_by_text, r"train-images-idx3-ubyte\.gz cannot be used"),
        (too_few_labels, "29 labels"),
        (another_set, "labels up to 10"),
    ],
)
def test_a_damaged_source_is_refused(source: Path, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(source)
    with pytest.raises(DataError, match=message):
        import_fashion_mnist(tmp_path / "out", split="train", source=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(source: Path, tmp_path: Path, limit: int) -> None:
    with pytest.raises(UsageError, match="from 1"):
        import_fashion_mnist(tmp_path / "out", split="train", source=source, limit=limit)


def test_a_folder_with_shards_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.tar").touch()
    with pytest.raises(DataError, match=r"full already holds a\.tar"):
        import_fashion_mnist(tmp_path / "full", split="test", source=tmp_path / "nowhere")
