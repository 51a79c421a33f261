"""Blocks, files and chunks cover the rows of a view, each row once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.layout import Layout, check_view, default_block_rows, file_key
from kdcache.errors import CacheError


@given(st.integers(1, 500), st.integers(1, 8), st.integers(0, 8), st.integers(0, 8))
def test_blocks_files_and_chunks_partition_the_rows(samples: int, bits: int, halved: int, again: int) -> None:
    layout = Layout(samples, 2**bits, 2 ** max(0, bits - halved), 2 ** max(0, bits - halved - again))
    rows = [row for block in range(layout.blocks) for row in range(*layout.block_range(block))]
    assert rows == list(range(samples))
    chunks = [chunk for block in range(layout.blocks) for chunk in layout.chunks_of(block)]
    assert chunks == list(range(layout.chunks))
    for block in range(layout.blocks):
        inside = [row for chunk in layout.chunks_of(block) for row in range(*layout.chunk_range(chunk))]
        assert inside == list(range(*layout.block_range(block)))
        assert all(layout.block_of(chunk) == block for chunk in layout.chunks_of(block))
        held = [chunk for file in layout.files_of(block) for chunk in layout.chunks_in(file)]
        assert held == list(layout.chunks_of(block))
        for file in layout.files_of(block):
            assert 1 <= len(layout.chunks_in(file)) <= layout.chunks_a_file
            assert {layout.file_of(chunk) for chunk in layout.chunks_in(file)} == {file}


@given(st.integers(1, 20_000_000))
def test_default_blocks_are_powers_of_two_of_a_sensible_number(samples: int) -> None:
    rows = default_block_rows(samples)
    assert rows & (rows - 1) == 0
    assert 2 <= rows <= 131072
    if samples >= 8:
        assert samples / rows >= 4
        assert rows == 131072 or samples / rows < 8


def test_default_blocks_of_known_data_sets() -> None:
    assert default_block_rows(6_000) == 1024
    assert default_block_rows(1_281_167) == 131072
    assert default_block_rows(1) == 2


def test_what_is_not_there_is_refused() -> None:
    layout = Layout(10, 4, 4, 2)
    for ask in (lambda: layout.block_range(3), lambda: layout.chunk_range(5), lambda: layout.block_range(-1)):
        with pytest.raises(CacheError, match="There is no"):
            ask()
    check_view(65535)
    for view in (-1, 65536):
        with pytest.raises(CacheError, match="cannot be stored"):
            check_view(view)


def test_keys_number_the_files_along_their_axis() -> None:
    assert file_key(0, 1, 3, 7) == "c/3/7"
    assert file_key(1, 2, 3, 7) == "c/3/0/7"
