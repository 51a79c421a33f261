"""Reading a shard strictly: webdataset's rules for what is a sample, and an error for all that is not."""

import io
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

from kdcache.data.images import IMAGE_EXTENSIONS
from kdcache.data.member_names import split_name
from kdcache.data.scan import ShardTable, scan_shard
from kdcache.errors import DataError
from support.shards import make_samples, make_shards, write_tar

IMAGE = make_samples(1)[0].data
PNG = make_samples(1, format="png")[0].data
# A text chunk with a checksum of zeros, behind the header's chunk.
WRONG_TEXT = PNG[:33] + b"\0\0\0\7tEXta\0bcdef" + bytes(4) + PNG[33:]


def tar_of(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> str:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def keys_of(table: ShardTable) -> list[str]:
    ends = np.cumsum(table.key_lengths).tolist()
    return [table.keys[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


# Names and groups

names = st.text(st.sampled_from("ab./_JPG é"), min_size=1, max_size=12)


@given(names)
@example("a.b/c.d.Seg.PNG")
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    key, extension = base_plus_ext(name)
    if name.rpartition("/")[2].startswith(".") or name.startswith("__"):
        return
    assert split_name(name) == (None if key is None else (key, extension.lower()))


@pytest.mark.parametrize(
    "name",
    ["__meta__", "__info__.json__", "__meta__/a.jpg", "a/.DS_Store", "a/._b.jpg", "README", "a.b/c", ".jpg"],
)
def test_metadata_and_hidden_files_belong_to_no_sample(name: str) -> None:
    assert split_name(name) is None


# webdataset's own reader of the same tar

CONTENT = {"jpg": IMAGE, "JPEG": IMAGE, "png": PNG, "cls": b"3", "json": b"{}", "seg.png": b"?"}

components = st.tuples(
    st.sampled_from(["a", "b", "c/a", "c.d/a", "__a__", "__m__/a", "c/", "c/._a", ".a", "a.b"]),
    st.sampled_from(["", *CONTENT]),
)


def webdatasets_images(path: str) -> list[tuple[str, bytes]]:
    """Key and image of every sample with an image, as webdataset yields them."""
    with open(path, "rb") as stream:
        files = ({**file, "__url__": ""} for file in tar_file_iterator(stream))
        return [
            (sample["__key__"], content)
            for sample in group_by_keys(files)
            for extension, content in sample.items()
            if extension in IMAGE_EXTENSIONS
        ]


@given(
    st.lists(components, max_size=8),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from([0, 1, 2]),
)
@example([("a", "jpg"), ("b", "jpg"), ("b", "cls"), ("a", "cls")], tarfile.PAX_FORMAT, 0)
@example([("a", "jpg"), ("a", "cls"), ("a", "png")], tarfile.GNU_FORMAT, 1)
@example([("c/", "jpg"), ("c/", "cls")], tarfile.USTAR_FORMAT, 0)
@settings(max_examples=60)
def test_every_image_that_webdataset_yields_is_in_the_table_or_the_shard_is_refused(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, str]], format: int, cuts: int
) -> None:
    folder = tmp_path_factory.mktemp("same")
    files = [(f"{key}.{extension}" if extension else key, CONTENT.get(extension, b"")) for key, extension in found]
    share = -(-len(files) // (cuts + 1))
    parts = [files[low : low + share] for low in range(0, len(files), max(1, share))] or [[]]
    path = folder / "a.tar"
    path.write_bytes(b"".join(Path(tar_of(folder / "part.tar", part, format)).read_bytes() for part in parts))
    try:
        table = scan_shard(str(path), unlabelled=True)
    except DataError:
        return
    content = path.read_bytes()
    places = zip(keys_of(table), table.offset.tolist(), table.length.tolist(), strict=True)
    ours = {key: content[offset : offset + length] for key, offset, length in places}
    try:
        theirs = webdatasets_images(str(path))
    except ValueError as error:
        pytest.fail(f"webdataset refuses what is taken here: {error}")
    assert theirs == [(key, ours.get(key)) for key, _ in theirs]


def test_components_come_together_wherever_in_the_shard_they_lie(tmp_path: Path) -> None:
    samples = make_samples(5)
    images = [(f"{sample.key}.jpg", sample.data) for sample in samples]
    labels = [(f"{sample.key}.cls", str(sample.label).encode()) for sample in samples]
    expected = scan_shard(tar_of(tmp_path / "a.tar", images + labels), unlabelled=False)
    for members in (labels + images, images + labels[::-1], labels[:2] + images[::-1] + labels[2:]):
        table = scan_shard(tar_of(tmp_path / "b.tar", members), unlabelled=False)
        found = dict(zip(keys_of(table), zip(table.label, table.length, strict=True), strict=True))
        assert found == dict(zip(keys_of(expected), zip(expected.label, expected.length, strict=True), strict=True))


def test_the_memory_of_a_large_shard_is_that_of_its_table(tmp_path: Path) -> None:
    count = 4_000
    image = b"P5 1 1 255 ."
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for extension, content in (("pgm", image), ("cls", b"7")):
            for number in range(count):
                info = tarfile.TarInfo(f"n01440764/image-{number:08d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            tar.members.clear()
    tracemalloc.start()
    try:
        table = scan_shard(str(tmp_path / "a.tar"), unlabelled=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table.offset) == count
    # 380 bytes a sample were measured, and 1,500 where the members are kept.
    assert peak < 700 * count


# What is in the table


def test_the_table_tells_what_is_in_the_shard(tmp_path: Path) -> None:
    samples = make_samples(12, varied=True)
    shard = write_tar(tmp_path / "a.tar", samples)
    table = scan_shard(str(shard), unlabelled=False)
    content = shard.read_bytes()
    assert keys_of(table) == [sample.key for sample in samples]
    assert table.label.tolist() == [sample.label for sample in samples]
    for row, sample in enumerate(samples):
        assert content[table.offset[row] :][: table.length[row]] == sample.data
        assert Image.open(io.BytesIO(sample.data)).size == (table.width[row], table.height[row])
    assert len(set(table.height.tolist())) > 3


def test_a_shard_may_be_empty_and_may_hold_more_than_samples(tmp_path: Path) -> None:
    assert len(scan_shard(tar_of(tmp_path / "empty.tar", []), unlabelled=False).offset) == 0
    members = [
        ("__info__/about.json", b"{}"),
        ("train/n01/x.JPEG", IMAGE),
        ("train/n01/x.cls", b" 7\n"),
        ("train/n01/x.seg.png", b"not looked at"),
        ("train/n01/.DS_Store", b"junk"),
        ("train/n01/y.CLS", b"0"),
        ("train/n01/y.webp", IMAGE),
    ]
    table = scan_shard(tar_of(tmp_path / "a.tar", members), unlabelled=False)
    assert keys_of(table) == ["train/n01/x", "train/n01/y"]
    assert table.label.tolist() == [7, 0]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_each_tar_format(tmp_path: Path, format: int) -> None:
    stem = "folder" * 15 + "/" + ("Bäume-木" if format != tarfile.USTAR_FORMAT else "tree") + "x" * 60
    table = scan_shard(tar_of(tmp_path / "a.tar", [(f"{stem}.jpg", IMAGE), (f"{stem}.cls", b"1")], format), False)
    assert keys_of(table) == [stem]
    assert (tmp_path / "a.tar").read_bytes()[table.offset[0] :].startswith(IMAGE)


@pytest.mark.parametrize("format", ["jpg", "png", "ppm", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sizes_are_read_from_every_format(tmp_path: Path, format: str, mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (50, 40)).save(buffer, "JPEG" if format == "jpg" else format)
    table = scan_shard(tar_of(tmp_path / "a.tar", [(f"a.{format}", buffer.getvalue())]), unlabelled=True)
    assert (table.height[0], table.width[0], table.label[0]) == (40, 50, -1)


def test_exif_orientation_is_ignored_and_a_long_preamble_is_read_over(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    exif[270] = "x" * 30_000
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40)).save(buffer, "JPEG", exif=exif)
    table = scan_shard(tar_of(tmp_path / "a.tar", [("a.jpg", buffer.getvalue())]), unlabelled=True)
    assert (table.height[0], table.width[0]) == (40, 50)


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    broken = IMAGE[: len(IMAGE) * 3 // 4]
    table = scan_shard(tar_of(tmp_path / "a.tar", [("a.jpg", broken)]), unlabelled=True)
    assert (table.height[0], table.width[0]) == (40, 50)


# What is refused


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.cls", b"1")], ["sample a ", "no image", "cls", "byte 512"]),
        ([("a.jpg", IMAGE)], ["sample a ", "no label", "byte 512", "--unlabelled"]),
        ([("a.json", b"{}"), ("b.jpg", IMAGE)], ["sample a ", "no image", "json"]),
        ([("a.jpg", IMAGE), ("a.png", IMAGE)], ["sample a ", "2 images", "jpg, png"]),
        ([("a.jpg", IMAGE), ("a.jpg", IMAGE)], ["key a is there twice: a.jpg", "at byte 512 and"]),
        ([("a.cls", b"-1"), ("a.jpg", IMAGE)], ["a.cls", "byte 512", "'-1'", "whole numbers"]),
        ([("a.cls", b"1.0"), ("a.jpg", IMAGE)], ["a.cls", "'1.0'"]),
        ([("a.cls", b""), ("a.jpg", IMAGE)], ["a.cls", "''"]),
        ([("a.cls", b"cat\xff"), ("a.jpg", IMAGE)], ["a.cls", "cat"]),
        ([("a.cls", b"999999999"), ("a.jpg", IMAGE)], ["a.cls", "byte 512", "999999999", "label of the sample a "]),
        ([("a.cls", b"0" * 100), ("a.jpg", IMAGE)], ["a.cls"]),
        ([("a.cls", "٣".encode()), ("a.jpg", IMAGE)], ["a.cls"]),
        ([("a.cls", b"1"), ("a.jpg", b"")], ["a.jpg", "byte 1536", "it has no bytes", "write the shard again"]),
        (
            [("a.cls", b"1"), ("a.png", WRONG_TEXT)],
            ["a.png", "byte 1536", "checksum of a PNG chunk", "tEXt, at byte 33"],
        ),
        ([("a.cls", b"1"), ("a.png", PNG[:20])], ["a.png", "byte 1536", "stop before the end chunk"]),
        ([("a.cls", b"1"), ("a.ppm", b"P6 13400 13400 255 ")], ["a.ppm", "byte 1536", "179,560,000 pixels"]),
        ([("n1/.jpg", IMAGE)], ["n1/.jpg", "byte 512", "no key"]),
        ([("a.jpg", IMAGE), ("b.jpg", IMAGE), ("a.jpg", IMAGE)], ["key a is there twice: a.jpg", "at byte 512 and"]),
        ([("x/img.001.jpg", IMAGE), ("x/img.001.cls", b"1")], ["first dot", "img.001.jpg", "img_001.jpg", "001.cls"]),
        ([("a.jpg", IMAGE), ("a.v2.cls", b"1")], ["no label", "first dot", "a.v2.cls", "a_v2.cls"]),
        ([("a.cls", b"1"), ("a.jpg", b"<html>404</html>")], ["a.jpg", "byte 1536", "no header", "<html>"]),
        ([("a.cls", b"1"), ("a.jpg", IMAGE[:100])], ["a.jpg", "byte 1536"]),
        ([("a.cls", b"1"), ("a.ppm", b"P6 0 0 255 ")], ["a.ppm", "byte 1536"]),
        ([("a\udce4.cls", b"1"), ("a\udce4.jpg", IMAGE)], ["byte 1536", "not UTF-8"]),
    ],
)
def test_what_is_no_sample_is_an_error_with_shard_member_and_offset(
    tmp_path: Path, members: list[tuple[str, bytes]], words: list[str]
) -> None:
    shard = tar_of(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as caught:
        scan_shard(shard, unlabelled=False)
    for word in [shard, *words]:
        assert word in str(caught.value)


def test_without_labels_none_is_read(tmp_path: Path) -> None:
    members = [("a.cls", b"nonsense"), ("a.jpg", IMAGE), ("b.jpg", IMAGE)]
    assert scan_shard(tar_of(tmp_path / "a.tar", members), unlabelled=True).label.tolist() == [-1, -1]


def test_a_tiff_that_is_stored_turned_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40)).save(buffer, "TIFF", tiffinfo={274: 6})
    with pytest.raises(DataError, match="stored turned"):
        scan_shard(tar_of(tmp_path / "a.tar", [("a.tif", buffer.getvalue())]), unlabelled=True)


# Damaged shards


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """A shard that webdataset wrote, and where its end-of-archive mark begins."""
    path = make_shards(tmp_path_factory.mktemp("whole"), images=3, size=(8, 8), shards=1) / "shard-000000.tar"
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    return path.read_bytes(), last.offset_data + -(-last.size // 512) * 512


@given(st.data())
def test_a_shard_cut_anywhere_before_its_end_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, whole: tuple[bytes, int], data: st.DataObject
) -> None:
    content, end = whole
    cut = data.draw(st.integers(0, end + 511))
    shard = tmp_path_factory.mktemp("cut") / "a.tar"
    shard.write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"cut short.*Copy the shard again") as caught:
        scan_shard(str(shard), unlabelled=False)
    assert f"byte {cut}" in str(caught.value)


def test_a_shard_cut_within_its_last_image_is_an_error_that_names_it(tmp_path: Path, whole: tuple[bytes, int]) -> None:
    content, end = whole
    shard = tmp_path / "a.tar"
    shard.write_bytes(content[: end - 600])
    with pytest.raises(DataError, match=r"img-00002\.jpg at byte"):
        scan_shard(str(shard), unlabelled=False)


def test_nothing_is_lost_behind_the_end_of_archive_mark(tmp_path: Path, whole: tuple[bytes, int]) -> None:
    content, end = whole
    shard = tmp_path / "a.tar"
    shard.write_bytes(content[: end + 512])
    assert len(scan_shard(str(shard), unlabelled=False).offset) == 3


@given(st.data())
def test_a_damaged_tar_header_never_loses_a_sample_in_silence(
    tmp_path_factory: pytest.TempPathFactory, whole: tuple[bytes, int], data: st.DataObject
) -> None:
    content, _ = whole
    shard = tmp_path_factory.mktemp("damaged") / "a.tar"
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        headers = [member.offset for member in tar]
    at = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 511))
    damaged = bytearray(content)
    damaged[at] ^= data.draw(st.integers(1, 255))
    shard.write_bytes(damaged)
    try:
        found = keys_of(scan_shard(str(shard), unlabelled=False))
    except DataError:
        return
    # the damage is in a byte of the checksum field that means nothing
    assert found == ["img-00000", "img-00001", "img-00002"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short: it ends at byte 0"),
        (b"\x1f\x8b\x08\0" + bytes(2000), "is compressed"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), "is compressed"),
        (b"no tar at all " * 100, "broken or half-written tar header at byte 0"),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan_shard(str(tmp_path / "a.tar"), unlabelled=False)


def test_a_shard_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        scan_shard(str(tmp_path), unlabelled=False)
