"""A part of a file, read as a file of its own, and what an image file says of itself."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdcache.data.images import IMAGE_EXTENSIONS, MAX_PIXELS, image_size
from kdcache.data.shard_file import FileSlice, LocalFile
from kdcache.render.encoded import UndecodableError, decode_rgb, load_part

CONTENT = bytes(range(100))

steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 60)),
        st.tuples(st.just("seek"), st.integers(0, 120)),
        st.tuples(st.just("skip"), st.integers(0, 30)),
        st.tuples(st.just("end"), st.integers(-20, 0)),
    )
)


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> int:
    path: Path = tmp_path_factory.mktemp("slices") / "file"
    path.write_bytes(CONTENT)
    return os.open(path, os.O_RDONLY)


@given(offset=st.integers(0, 100), length=st.integers(20, 60), buffered=st.booleans(), steps=steps)
def test_a_slice_reads_as_the_bytes_in_memory_would(
    descriptor: int, offset: int, length: int, buffered: bool, steps: list[tuple[str, int]]
) -> None:
    length = min(length, 100 - offset)
    raw = FileSlice(LocalFile(descriptor), offset, length)
    ours = io.BufferedReader(raw, 16) if buffered else raw
    theirs = io.BytesIO(CONTENT[offset : offset + length])
    for kind, number in steps:
        if kind == "read":
            assert ours.read(number) == theirs.read(number)
        else:
            whence = {"seek": os.SEEK_SET, "skip": os.SEEK_CUR, "end": os.SEEK_END}[kind]
            if kind == "end":
                number = max(number, -length)
            assert ours.seek(number, whence) == theirs.seek(number, whence)
        assert ours.tell() == theirs.tell()


def test_the_extensions_are_those_of_torchvision() -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert tuple(f".{extension}" for extension in IMAGE_EXTENSIONS) == IMG_EXTENSIONS


def ppm(width: int, height: int) -> bytes:
    return b"P5 %d %d 255 " % (width, height)


@pytest.mark.filterwarnings("error")
def test_large_images_are_taken_without_a_word_and_larger_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would warn of the first, without its name."""
    assert image_size(io.BytesIO(ppm(10_000, 10_000))) == (10_000, 10_000)
    assert image_size(io.BytesIO(ppm(MAX_PIXELS // 10, 10))) == (10, MAX_PIXELS // 10)
    with pytest.raises(ValueError, match=r"13,400 x 13,400 = 179,560,000 pixels, and 178,956,970 are the most"):
        image_size(io.BytesIO(ppm(13_400, 13_400)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr("kdcache.data.images.MAX_PIXELS", 200)
    monkeypatch.setattr("kdcache.render.encoded.MAX_PIXELS", 200)
    encoded = ppm(12, 12) + bytes(range(144))
    whole = np.asarray(decode_rgb(encoded))
    for box in ((0, 0, 12, 12), (1, 1, 11, 11), (2, 3, 4, 5)):
        top, left, height, width = box
        part = load_part(encoded, np.array(box, np.int32), str)
        assert np.array_equal(np.asarray(part), whole[top : top + height, left : left + width])
    with pytest.raises(UndecodableError, match="225 pixels, and 200 are the most"):
        decode_rgb(ppm(15, 15) + bytes(225))


def test_a_disk_that_fails_is_no_fault_of_the_image() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 16:
                raise OSError(5, "Input/output error")
            return super().read(size)

    buffer = io.BytesIO()
    Image.new("RGB", (50, 40)).save(buffer, "JPEG")
    with pytest.raises(OSError, match="Input/output error"):
        image_size(Failing(buffer.getvalue()))
