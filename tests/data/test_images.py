"""A part of a file, read as a file of its own."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data.images import IMAGE_EXTENSIONS
from kdcache.data.shard_file import FileSlice, LocalFile

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
