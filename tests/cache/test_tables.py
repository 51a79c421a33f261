"""Tables of an entry: stored once, put back where they were lost, and never put over those of another entry."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache.durable import LocalFiles
from kdcache.cache.identity import seal
from kdcache.cache.store import Cache
from kdcache.cache.tables import restore_tables, store_tables
from kdcache.errors import CorruptError
from support.small_cache import (
    CLASSES,
    FULL,
    TOPK,
    VIEW_SET,
    WINDOWS,
    edit_attributes,
    fill,
    identity_of,
    open_entry,
    tree,
)
from support.targets_contract import random_order

ORDER = "teachers/teacher/order/c/0/0"


def test_a_table_is_stored_once_and_comes_back(tmp_path: Path) -> None:
    fill(open_entry(tmp_path))
    codec = Cache.open(tmp_path).entry("teacher").codec
    assert codec.identity() == TOPK.identity()
    assert np.array_equal(codec.tables()["order"], TOPK.tables()["order"])


def test_an_entry_keeps_its_table_whatever_a_later_coding_has(tmp_path: Path) -> None:
    fill(open_entry(tmp_path), views=1)
    before = tree(tmp_path)
    for order in (random_order(CLASSES, seed=1), None):
        other = replace(TOPK, order=order)
        assert open_entry(tmp_path, other).codec.identity() == TOPK.identity()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("left", [b"half of a chunk", b""])
def test_a_table_that_no_entry_names_is_written_over(tmp_path: Path, left: bytes) -> None:
    """It is of a dump that was killed before its entry came to be: perhaps of other weights."""
    open_entry(tmp_path / "other", replace(TOPK, order=random_order(CLASSES, seed=1)))
    path = tmp_path / "cache"
    (path / ORDER).parent.mkdir(parents=True)
    (path / ORDER).write_bytes(left or (tmp_path / "other" / ORDER).read_bytes())
    assert open_entry(path).codec.identity() == TOPK.identity()
    assert Cache.open(path).entry("teacher").codec.identity() == TOPK.identity()


def test_a_table_of_a_killed_dump_of_another_kind_goes(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path / "cache", VIEW_SET, WINDOWS)
    store_tables(cache.files, TOPK, "teacher")
    assert (tmp_path / "cache" / ORDER).exists()
    fill(cache.add_teacher(identity_of(FULL), FULL))
    fill(open_entry(tmp_path / "alone", FULL))
    found = {key: data for key, data in tree(tmp_path / "cache").items() if data is not None}
    assert found == {key: data for key, data in tree(tmp_path / "alone").items() if data is not None}


def test_of_two_processes_that_make_an_entry_at_once_the_table_of_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writes its table between the table and the identity of the one that wins."""
    cache = Cache.create(tmp_path, VIEW_SET, WINDOWS)
    put, other = LocalFiles.put_if_absent, replace(TOPK, order=random_order(CLASSES, seed=1))

    def put_late(self: LocalFiles, key: str, data: bytes) -> bool:
        if key == "teachers/teacher/zarr.json":
            store_tables(LocalFiles(tmp_path), other, "teacher")
        return put(self, key, data)

    monkeypatch.setattr(LocalFiles, "put_if_absent", put_late)
    cache.add_teacher(identity_of(TOPK), TOPK)
    monkeypatch.undo()
    assert Cache.open(tmp_path).entry("teacher").codec.identity() == TOPK.identity()
    assert cache.add_teacher(identity_of(other), other).codec.identity() == TOPK.identity()


def test_a_table_is_not_put_over_that_of_an_entry_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process makes its whole entry after this one saw that there was none."""
    cache = Cache.create(tmp_path, VIEW_SET, WINDOWS)
    get, other = LocalFiles.get, replace(TOPK, order=random_order(CLASSES, seed=1))

    def get_early(self: LocalFiles, key: str) -> bytes | None:
        found = get(self, key)
        if key == ORDER:
            monkeypatch.undo()
            fill(Cache.open(tmp_path, read_only=False).add_teacher(identity_of(TOPK), TOPK))
        return found

    monkeypatch.setattr(LocalFiles, "get", get_early)
    assert cache.add_teacher(identity_of(other), other).codec.identity() == TOPK.identity()
    assert len(Cache.open(tmp_path).entry("teacher").read_block(0, 0)) == 4


def test_whoever_has_an_entry_can_put_back_a_table_that_another_process_wrote_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one looked for an entry, then slept until after the first blocks."""
    cache, entries = Cache.create(tmp_path, VIEW_SET, WINDOWS), []
    put, other = LocalFiles.put, replace(TOPK, order=random_order(CLASSES, seed=1))

    def put_late(self: LocalFiles, key: str, data: bytes) -> None:
        if key == ORDER:
            monkeypatch.undo()
            entries.append(fill(Cache.open(tmp_path, read_only=False).add_teacher(identity_of(TOPK), TOPK)))
        put(self, key, data)

    monkeypatch.setattr(LocalFiles, "put", put_late)
    with pytest.raises(CorruptError, match=ORDER):
        cache.add_teacher(identity_of(other), other)
    (entry,) = entries
    (tmp_path / ORDER).parents[2].joinpath("zarr.json").unlink()
    restore_tables(cache.files, entry.codec, entry.identity)
    open_entry(tmp_path / "alone")
    fill(open_entry(tmp_path / "alone"))
    assert {key: data for key, data in tree(tmp_path).items() if "alone" not in key} == tree(tmp_path / "alone")


def test_a_table_that_could_fill_the_memory_is_not_even_read(tmp_path: Path) -> None:
    """Whatever length the file claims: it is compressed, and zeros take no room."""
    open_entry(tmp_path)
    content = identity_of(TOPK).to_json() | {"num_classes": 4_000_000}
    edit_attributes(tmp_path / "teachers/teacher/zarr.json", {"kdcache": seal(content)})
    (tmp_path / ORDER).unlink()
    with pytest.raises(CorruptError, match=r"order/c/0/0 would have 3,906 MiB"):
        Cache.open(tmp_path).entry("teacher")


@pytest.mark.parametrize("damage", ["missing", "flipped", "other"])
def test_a_damaged_table_is_noticed(tmp_path: Path, damage: str) -> None:
    open_entry(tmp_path / "one")
    open_entry(tmp_path / "two", replace(TOPK, order=random_order(CLASSES, seed=1)))
    path = tmp_path / "one" / ORDER
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes((tmp_path / "two" / ORDER).read_bytes() if damage == "other" else data[:-9] + b"?" + data[-8:])
    another = replace(TOPK, order=random_order(CLASSES, seed=2))
    for read in (lambda: Cache.open(tmp_path / "one").entry("teacher"), lambda: open_entry(tmp_path / "one", another)):
        with pytest.raises(CorruptError, match=r"order/c/0/0.* from a copy"):
            read()
    assert list(Cache.open(tmp_path / "one").lost_tables("teacher")) == ["order"]
    open_entry(tmp_path / "one")  # by who has the very same
    assert path.read_bytes() == data
    assert Cache.open(tmp_path / "one").lost_tables("teacher") == {}
    assert Cache.open(tmp_path / "one").lost_tables("nobody") == {}
