"""Records say what the chunks of a block must be, and notice being altered."""

from dataclasses import replace
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.identity import canonical, seal
from kdcache.cache.record import BlockId, BlockRecord, Stored
from kdcache.errors import CacheError

RECORD = BlockRecord(
    {"class/0": Stored(1, 20), "level/0": Stored(2**32 - 1, 4)},
    {"renderer": "pillow"},
    block_id=BlockId("0123456789abcdef", "fedcba9876543210", view=3, block=5),
)


def with_checksum(payload: bytes) -> bytes:
    return payload + google_crc32c.value(payload).to_bytes(4, "little")


@pytest.mark.parametrize("kl", [None, 0.0, 0.0441234, 1e-9, 12345.6])
def test_a_record_comes_back(kl: float | None) -> None:
    record = replace(RECORD, kl=kl)
    assert BlockRecord.from_bytes(record.to_bytes(), "here") == record
    assert record.kl == (None if kl is None else pytest.approx(kl, rel=5e-3))


def test_a_record_of_format_3_names_no_block() -> None:
    record = replace(RECORD, block_id=None)
    assert b"block_id" not in record.to_bytes()
    assert BlockRecord.from_bytes(record.to_bytes(), "here") == record


def test_a_record_names_the_list_of_what_was_lost() -> None:
    record = replace(RECORD, lost="0123456789abcdef" * 2)
    assert BlockRecord.from_bytes(record.to_bytes(), "here") == record
    assert b"lost" not in RECORD.to_bytes()


def test_equal_records_are_equal_bytes() -> None:
    backwards = replace(RECORD, chunks=dict(reversed(RECORD.chunks.items())))
    assert backwards.to_bytes() == RECORD.to_bytes()


def test_any_altered_byte_is_noticed() -> None:
    data = RECORD.to_bytes()
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            with pytest.raises(CacheError, match=r"/r\.json"):
                BlockRecord.from_bytes(bytes(altered), "/r.json")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"chunks": {}},
        {"chunks": [], "provenance": {}},
        {"chunks": {}, "provenance": {}, "more": 1},
        {"chunks": {}, "provenance": {}, "kl": -0.1},
        {"chunks": {}, "provenance": {}, "kl": "0.1"},
        {"chunks": {}, "provenance": {}, "lost": 1},
        {"chunks": {}, "provenance": {}, "lost": "../" + "0" * 29},
        {"chunks": {"a/0": [1]}, "provenance": {}},
        {"chunks": {"a/0": [1, -1]}, "provenance": {}},
        {"chunks": {"a/0": [1, True]}, "provenance": {}},
        {"chunks": {"a/0": ["1", 2]}, "provenance": {}},
        {"chunks": {"a/0": None}, "provenance": {}},
        {"chunks": {}, "provenance": {}, "block_id": {}},
        {"chunks": {}, "provenance": {}, "block_id": ["0", "1", 2, 3]},
        {"chunks": {}, "provenance": {}, "block_id": {"view_set": "0", "teacher": "1", "view": 2}},
        {"chunks": {}, "provenance": {}, "block_id": {"view_set": "0", "teacher": "1", "view": 2, "block": True}},
        {"chunks": {}, "provenance": {}, "block_id": {"view_set": "0", "teacher": 1, "view": 2, "block": 3}},
        {"chunks": {}, "provenance": {}, "block_id": {"view_set": "0", "teacher": "1", "view": 2, "block": 3, "x": 4}},
    ],
)
def test_what_is_no_record_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(CacheError, match="no record"):
        BlockRecord.from_bytes(canonical(seal(content)).encode(), "here")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"1", b"null"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(CacheError):
        BlockRecord.from_bytes(data, "here")


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_chunk_is_told_from_every_other_chunk(payload: bytes, other: bytes) -> None:
    data = with_checksum(payload)
    assert Stored.of(data).describes(data)
    if other != payload:  # both end with a right checksum of their own
        assert not Stored.of(data).describes(with_checksum(other))


@given(st.binary(min_size=1, max_size=40), st.data())
def test_any_altered_bit_of_a_chunk_is_noticed(payload: bytes, draw: st.DataObject) -> None:
    data = with_checksum(payload)
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    altered = bytearray(data)
    altered[bit // 8] ^= 1 << bit % 8
    assert not Stored.of(data).describes(bytes(altered))
    assert not Stored.of(data).describes(data[:-1])
