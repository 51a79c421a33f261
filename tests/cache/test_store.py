"""Caches as a whole: making and opening them, what they belong to, and that they are plain Zarr."""

import errno
import fcntl
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from kdcache.cache import store
from kdcache.cache.durable import LocalFiles
from kdcache.cache.files import Files
from kdcache.cache.identity import FORMAT, OLDEST_FORMAT, seal, windows_checksum
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import encoded_bytes
from kdcache.errors import CacheError, CorruptError, IdentityError
from support.small_cache import (
    CLASSES,
    FULL,
    SAMPLES,
    TOPK,
    VIEW_SET,
    WINDOWS,
    edit_attributes,
    fill,
    identity_of,
    kept,
    open_entry,
    tree,
)


def test_a_cache_opens_as_what_it_was_created(tmp_path: Path) -> None:
    path = tmp_path / "a" / "cache"
    assert not Cache.exists(path)
    made = Cache.create(path, VIEW_SET, WINDOWS)
    assert Cache.exists(path)
    for cache in (made, Cache.open(path), Cache.open(str(path), read_only=False)):
        assert cache.view_set == VIEW_SET
        assert cache.windows.tolist() == WINDOWS.tolist()
        assert cache.names() == []
        assert cache.location == str(path)


def test_many_windows_lie_in_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.cache.windows.WINDOWS_CHUNK", 4)
    assert Cache.create(tmp_path, VIEW_SET, WINDOWS).windows.tolist() == WINDOWS.tolist()
    assert zarr.open_array(tmp_path / "windows", mode="r")[:].tolist() == WINDOWS.tolist()
    (tmp_path / "windows/c/1").unlink()
    with pytest.raises(CorruptError, match="windows/c/1 is missing"):
        _ = Cache.open(tmp_path).windows


def _no_locks(file: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("has_locks", [True, False], ids=["locks", "no locks"])
def test_two_caches_that_are_created_in_one_place_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    """The second begins while the first one writes; it waits, and is refused with the difference."""
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", _no_locks)
    other_windows = WINDOWS[::-1].copy()
    other = replace(VIEW_SET, windows=windows_checksum(other_windows))
    assert other != VIEW_SET
    has_begun, has_looked, refusals = threading.Event(), threading.Event(), []
    write = store.write_windows

    def slow(files: Files, windows: np.ndarray) -> list[str]:
        has_begun.set()
        assert has_looked.wait(60)
        return write(files, windows)

    def look_again(_: float) -> None:
        has_looked.set()

    def second() -> None:
        try:
            Cache.ensure(tmp_path, other, other_windows)
        except IdentityError as error:
            refusals.append(error)

    monkeypatch.setattr(store, "write_windows", slow)
    monkeypatch.setattr(store.time, "sleep", look_again)
    first = threading.Thread(target=Cache.create, args=(tmp_path, VIEW_SET, WINDOWS))
    first.start()
    assert has_begun.wait(60)
    second()
    first.join()
    assert [error.field for error in refusals] == ["windows"]
    assert Cache.open(tmp_path).windows.tolist() == WINDOWS.tolist()
    assert not list((tmp_path / ".partial").glob("*"))


def test_one_window_is_stored_like_many(tmp_path: Path) -> None:
    """Zarr leaves out chunks of nothing but zeros unless it is told."""
    windows = np.zeros_like(WINDOWS)
    cache = Cache.create(tmp_path, replace(VIEW_SET, windows=windows_checksum(windows)), windows)
    assert cache.windows.tolist() == [0] * SAMPLES


def test_other_windows_than_the_view_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="windows"):
        Cache.create(tmp_path, VIEW_SET, WINDOWS + 1)
    Cache.create(tmp_path / "one", VIEW_SET, WINDOWS)
    others = replace(VIEW_SET, windows=windows_checksum(WINDOWS + 1))
    Cache.create(tmp_path / "two", others, WINDOWS + 1)
    (tmp_path / "one/windows/c/0").write_bytes((tmp_path / "two/windows/c/0").read_bytes())
    with pytest.raises(CorruptError, match="altered"):
        _ = Cache.open(tmp_path / "one").windows


def test_a_flipped_byte_of_the_windows_is_noticed(tmp_path: Path) -> None:
    Cache.create(tmp_path, VIEW_SET, WINDOWS)
    chunk = tmp_path / "windows/c/0"
    data = chunk.read_bytes()
    for place in range(len(data)):
        chunk.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CorruptError):
            _ = Cache.open(tmp_path).windows


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_lost_windows_are_written_again_by_who_has_the_same(tmp_path: Path, damage: str) -> None:
    Cache.create(tmp_path, VIEW_SET, WINDOWS)
    before = tree(tmp_path)
    chunk = tmp_path / "windows/c/0"
    if damage == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptError, match=r"windows/c/0 .*same dump-logits"):
        Cache.ensure(tmp_path, VIEW_SET, WINDOWS + 1)
    Cache.ensure(tmp_path, VIEW_SET, WINDOWS)
    assert tree(tmp_path) == before


def test_nothing_is_made_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match=r"not empty.*notes\.txt"):
        Cache.create(tmp_path, VIEW_SET, WINDOWS)
    Cache.create(tmp_path / "cache", VIEW_SET, WINDOWS)
    with pytest.raises(CacheError, match="a cache already"):
        Cache.create(tmp_path / "cache", VIEW_SET, WINDOWS)


def test_what_is_no_cache_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"There is no cache at .*dump-logits"):
        Cache.open(tmp_path / "nowhere")
    zarr.create_group(tmp_path / "other", attributes={"kdcache": {"seed": 0}})
    zarr.create_group(tmp_path / "foreign")
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="u1")
    for name in ("other", "foreign", "array"):
        with pytest.raises(CacheError, match=name):
            Cache.open(tmp_path / name)
    for text in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"zarr_format": 3}', b"{" * 100_000):
        (tmp_path / "zarr.json").write_bytes(text)
        with pytest.raises(CacheError, match=str(tmp_path)):
            Cache.open(tmp_path)


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    Cache.create(tmp_path, VIEW_SET, WINDOWS)
    edit_attributes(tmp_path / "zarr.json", {"kdcache": seal({"format": FORMAT + 1, "all": "else"})})
    with pytest.raises(CacheError, match=rf"format {FORMAT + 1}.*Update kdcache"):
        Cache.open(tmp_path)


@pytest.mark.parametrize("version", [1, OLDEST_FORMAT - 1])
def test_an_older_format_asks_for_another_cache(tmp_path: Path, version: int) -> None:
    Cache.create(tmp_path, VIEW_SET, WINDOWS)
    edit_attributes(tmp_path / "zarr.json", {"kdcache": seal(VIEW_SET.to_json() | {"format": version})})
    with pytest.raises(CacheError, match=rf"format {version}.*another --cache"):
        Cache.open(tmp_path)


def test_altered_identities_are_noticed(tmp_path: Path) -> None:
    open_entry(tmp_path)
    for path, word, other in (
        (tmp_path / "zarr.json", '"seed": 7', '"seed": 8'),
        (tmp_path / "teachers/teacher/zarr.json", "0.4", "0.5"),
    ):
        text = path.read_text()
        assert word in text
        path.write_text(text.replace(word, other))
        with pytest.raises(CacheError, match="was altered"):
            Cache.open(tmp_path).entry("teacher")
        path.write_text(text)
    Cache.open(tmp_path).entry("teacher")


def test_teachers_stand_side_by_side(tmp_path: Path) -> None:
    fill(open_entry(tmp_path, TOPK, name="a"))
    before = tree(tmp_path)
    fill(open_entry(tmp_path, FULL, name="b-2"))
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    cache = Cache.open(tmp_path)
    assert {name: cache.teacher(name) for name in cache.names()} == {
        "a": identity_of(TOPK, "a"),
        "b-2": identity_of(FULL, "b-2"),
    }
    assert Cache.open(tmp_path).entry("b-2").codec == FULL


def test_a_teacher_that_differs_is_refused_under_its_name(tmp_path: Path) -> None:
    open_entry(tmp_path)
    before = tree(tmp_path)
    for changes, field in (
        ({"weights": "4567"}, "weights"),
        ({"batch_size": 8}, "batch_size"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean"),
        ({"label_space": "none"}, "label_space"),
    ):
        with pytest.raises(IdentityError, match="Teacher 'teacher'") as caught:
            open_entry(tmp_path, **changes)
        assert caught.value.field == field
    with pytest.raises(IdentityError) as caught:
        open_entry(tmp_path, replace(TOPK, k=4))
    assert caught.value.field == "targets.k"
    with pytest.raises(IdentityError, match=r"has targets\.kind topk, and full was asked for"):
        open_entry(tmp_path, FULL)
    assert tree(tmp_path) == before


def test_a_coding_must_be_the_identitys(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path, VIEW_SET, WINDOWS)
    with pytest.raises(CacheError, match="codec"):
        cache.add_teacher(identity_of(TOPK), FULL)


@pytest.mark.parametrize("name", ["nobody", "../teachers/teacher", "zarr.json", "", "."])
def test_unknown_teachers_are_named(tmp_path: Path, name: str) -> None:
    open_entry(tmp_path)
    with pytest.raises(CacheError, match=r"no teacher .*teacher"):
        Cache.open(tmp_path).entry(name)


def test_a_renamed_teacher_is_noticed(tmp_path: Path) -> None:
    open_entry(tmp_path)
    (tmp_path / "teachers/teacher").rename(tmp_path / "teachers/other")
    with pytest.raises(CorruptError, match="'teacher'"):
        Cache.open(tmp_path).entry("other")


def test_targets_of_a_newer_version_are_named(tmp_path: Path) -> None:
    open_entry(tmp_path)
    content = identity_of(TOPK).to_json() | {"targets": {"kind": "dream"}}
    edit_attributes(tmp_path / "teachers/teacher/zarr.json", {"kdcache": seal(content)})
    with pytest.raises(CacheError, match="'dream' are not known"):
        Cache.open(tmp_path).entry("teacher")


@pytest.mark.parametrize("text", ["", "{}", '"shape": [65536, 12]', '"data_type": "uint16"', '"clevel": 1'])
def test_an_array_that_is_not_as_it_should_be_is_noticed(tmp_path: Path, text: str) -> None:
    open_entry(tmp_path)
    path = tmp_path / "teachers/teacher/tail/zarr.json"
    meta = json.loads(path.read_text())
    meta["codecs"][1]["configuration"]["clevel"] = 1
    path.write_text(text if "clevel" not in text else json.dumps(meta))
    with pytest.raises(CorruptError, match="tail"):
        Cache.open(tmp_path).entry("teacher")


def test_a_teacher_that_lost_its_identity_is_not_written_over(tmp_path: Path) -> None:
    fill(open_entry(tmp_path))
    (tmp_path / "teachers/teacher/zarr.json").unlink()
    before = tree(tmp_path)
    with pytest.raises(CorruptError, match=r"lost its zarr\.json"):
        open_entry(tmp_path)
    assert tree(tmp_path) == before


def test_the_same_targets_make_the_same_bytes(tmp_path: Path) -> None:
    for codec in (TOPK, FULL):
        for name in ("one", "two"):
            fill(open_entry(tmp_path / name, codec, name=codec.kind))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_the_order_of_writing_does_not_show(tmp_path: Path) -> None:
    fill(open_entry(tmp_path / "one"))
    entry = open_entry(tmp_path / "two")
    for view, block in ((1, 2), (0, 1), (1, 0), (0, 0)):
        start, stop = entry.layout.block_range(block)
        entry.write_block(
            view, block, kept(TOPK, view, start, stop), {"renderer": "pillow", "software": {"torch": "2"}}
        )
    fill(entry)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_reading_writes_nothing(tmp_path: Path) -> None:
    fill(open_entry(tmp_path))
    before = tree(tmp_path)
    cache = Cache.open(tmp_path)
    cache.entry("teacher").complete_views()
    with pytest.raises(CacheError, match="opened for reading"):
        cache.entry("teacher").write_block(5, 0, kept(TOPK, 0, 0, 4), {})
    with pytest.raises(CacheError, match="opened for reading"):
        cache.add_teacher(identity_of(TOPK, "new"), TOPK)
    assert tree(tmp_path) == before


@pytest.mark.filterwarnings("error")
def test_any_zarr_library_can_read_it(tmp_path: Path) -> None:
    """Through zarr's own group. What the arrays mean is held by test_format.py."""
    fill(open_entry(tmp_path))
    group = zarr.open_group(tmp_path, mode="r")
    assert group["windows"][:].tolist() == WINDOWS.tolist()
    arrays = group["teachers/teacher"]
    assert {name for name, _ in arrays.arrays()} == {*TOPK.arrays(1), "order"}
    for name, array in arrays.arrays():
        codecs = [codec["name"] for codec in json.loads(json.dumps(array.metadata.to_dict()["codecs"], default=str))]
        assert codecs == ["bytes", "blosc", "crc32c"]
        assert array.shape[0] == (CLASSES if name == "order" else 65536)
    assert np.array_equal(arrays["order"][:], TOPK.tables()["order"])
    for view in range(2):
        for block in range(3):
            start, stop = block * 4, min(block * 4 + 4, SAMPLES)
            for name, values in TOPK.encode(kept(TOPK, view, start, stop), 4).items():
                place = slice(block * values.shape[-1], (block + 1) * values.shape[-1])
                assert np.array_equal(arrays[name][view, ..., place], values)


def test_a_prediction_of_bytes_is_what_is_stored(tmp_path: Path) -> None:
    entry = open_entry(tmp_path)
    targets = kept(TOPK, 0, 0, 4)
    entry.write_block(0, 0, targets, {})
    stored = entry.stored_bytes(0)
    assert encoded_bytes(TOPK, targets) == {name: size for name, size in stored.items() if name != "records"}


def test_an_unwritable_place_is_found_before_any_work(tmp_path: Path) -> None:
    Cache.create(tmp_path / "cache", VIEW_SET, WINDOWS)
    (tmp_path / "cache/.partial").write_text("in the way")
    with pytest.raises(CacheError, match=r"Cannot write .*\.partial|Cannot write .*cache"):
        Cache.open(tmp_path / "cache", read_only=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="Not a directory"):
        Cache.create(tmp_path / "file/cache", VIEW_SET, WINDOWS)


def test_the_place_of_the_bytes_can_be_another(tmp_path: Path) -> None:
    """`files` wins over the path: the seam for object stores."""
    files = LocalFiles(tmp_path / "there")
    Cache.create("elsewhere://", VIEW_SET, WINDOWS, files=files)
    assert Cache.open("elsewhere://", files=files).view_set == VIEW_SET
    assert Cache.exists("elsewhere://", files=files)
