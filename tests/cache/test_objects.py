"""Caches in an object store: the contract of files, and the same bytes as on a disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest

from kdcache.cache.claims import BeatingClaims, open_claims
from kdcache.cache.durable import LocalFiles
from kdcache.cache.locations import open_files
from kdcache.cache.objects import ObjectFiles
from kdcache.cache.store import Cache
from kdcache.errors import CacheError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.io import object_store
from kdcache.targets.base import TargetCodec
from support.files_contract import check_parts
from support.s3 import s3, s3_server  # noqa: F401
from support.small_cache import TOPK, VIEW_SET, WINDOWS, fill, identity_of, open_entry, small_chunks, tree


@pytest.fixture
def files(s3: str) -> ObjectFiles:  # noqa: F811
    return ObjectFiles(f"{s3}/some/cache")


def test_what_is_put_is_got(files: ObjectFiles) -> None:
    assert files.get("a/b") is None
    assert files.size("a/b") is None
    assert files.names("a") == files.names("") == []
    files.put("a/b", b"one")
    files.put("a/b", b"three")
    assert files.get("a/b") == b"three"
    assert files.size("a/b") == 5
    files.put("a/c/d", b"")
    files.put("ab", b"")
    assert files.names("a") == ["b", "c"]
    assert files.names("") == ["a", "ab"]
    assert files.get("a/c/d") == b""
    files.delete("a/b")
    files.delete("a/b")
    assert files.names("a") == ["c"]
    assert files.locate("a/b").endswith("/some/cache/a/b")


def test_what_is_put_in_parts_is_got_in_parts(files: ObjectFiles) -> None:
    check_parts(files)


def test_a_large_object_is_put_in_several_requests(files: ObjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "LARGE", 2**20)
    parts = [bytes([number]) * (5 * 2**20 + number) for number in range(3)]
    asked: list[bool] = []
    put = obstore.put

    def noted(*arguments: Any, use_multipart: bool, **choice: Any) -> Any:
        asked.append(use_multipart)
        return put(*arguments, use_multipart=use_multipart, **choice)

    monkeypatch.setattr(obstore, "put", noted)
    files.put("large", *parts)
    assert files.holds("large", *parts)
    files.put("small", b"one", b"two")
    assert asked == [True, False]


def test_put_if_absent_never_replaces(files: ObjectFiles) -> None:
    assert files.put_if_absent("r/1.json", b"first")
    assert not files.put_if_absent("r/1.json", b"second")
    assert files.get("r/1.json") == b"first"


def test_many_names_come_in_pages(files: ObjectFiles) -> None:
    for number in range(1003):
        files.put(f"n/{number}", b"")
    assert len(files.names("n")) == 1003


def test_what_was_opened_for_reading_is_not_changed(files: ObjectFiles) -> None:
    reading = ObjectFiles(files.url, read_only=True)
    for ask in (
        lambda: reading.put("a", b""),
        lambda: reading.put_if_absent("a", b""),
        lambda: reading.delete("a"),
        lambda: reading.prepare(),
    ):
        with pytest.raises(CacheError, match="opened for reading"):
            ask()
    assert files.names("") == []


def test_preparing_leaves_nothing_behind(files: ObjectFiles) -> None:
    files.prepare()
    assert files.names("") == []


@pytest.mark.usefixtures("s3")
def test_errors_name_the_url_and_the_remedy() -> None:
    with pytest.raises(CacheError, match=r"Cannot write s3://no-such-bucket/cache/a.*credentials") as caught:
        ObjectFiles("s3://no-such-bucket/cache").put("a", b"")
    assert "Debug source" not in str(caught.value)
    with pytest.raises(CacheError, match="nonsense://somewhere"):
        open_files("nonsense://somewhere/cache")


def test_urls_of_files_are_folders(tmp_path: Path) -> None:
    found = open_files(f"file://{tmp_path}/cache")
    assert isinstance(found, LocalFiles)
    assert found.root == tmp_path / "cache"


def test_claims_there_beat(files: ObjectFiles) -> None:
    with open_claims(files) as one, open_claims(files) as two:
        assert isinstance(one, BeatingClaims)
        assert one.take("a")
        assert not two.take("a")
        one.release("a")
        assert two.take("a")
    assert files.names("") == []


def everything(files: ObjectFiles, folder: str = "") -> dict[str, bytes]:
    """Every object by its key."""
    found = {}
    for name in files.names(folder):
        key = f"{folder}/{name}".lstrip("/")
        data = files.get(key)
        found |= {key: data} if data is not None else everything(files, key)
    return found


def on_disk(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(path).items() if data is not None}


@pytest.fixture(params=[4, 2], ids="chunks of {}".format)
def chunk_rows(request: pytest.FixtureRequest) -> Iterator[int]:
    """Blocks of 4 rows, which a file holds."""
    with small_chunks(TargetCodec, request.param):
        yield request.param


@pytest.mark.usefixtures("chunk_rows")
def test_a_cache_there_has_the_bytes_of_one_on_a_disk(files: ObjectFiles, tmp_path: Path) -> None:
    fill(open_entry(tmp_path / "disk"), 2)
    cache = Cache.ensure(files.url, VIEW_SET, WINDOWS)
    entry = fill(cache.add_teacher(identity_of(TOPK), TOPK), 1)
    # Stopped after a chunk, and begun again.
    entry.open_block(1, 0)._entry._files.put("teachers/teacher/tail/c/1/0", b"half")
    fill(Cache.ensure(files.url, VIEW_SET, WINDOWS).add_teacher(identity_of(TOPK), TOPK), 2)
    assert everything(files) == on_disk(tmp_path / "disk")

    assert verify(VerifyOptions(files.url)).whole
    assert inspect(InspectOptions(files.url)).teachers[0].complete == (0, 1)
    copy_cache(CopyOptions(files.url, str(tmp_path / "copy")))
    assert on_disk(tmp_path / "copy") == on_disk(tmp_path / "disk")
    copy_cache(CopyOptions(str(tmp_path / "copy"), f"{files.url}-copy"))
    assert everything(ObjectFiles(f"{files.url}-copy")) == on_disk(tmp_path / "disk")

    data = files.get("teachers/teacher/tail/c/1/0")
    assert data is not None
    files.put("teachers/teacher/tail/c/1/0", data[:-1] + bytes([data[-1] ^ 1]))
    report = verify(VerifyOptions(files.url, repair=True))
    assert [(found.view, found.block) for found in report.findings] == [(1, 0)]
    fill(Cache.open(files.url, read_only=False).entry("teacher"), 2)
    assert everything(files) == on_disk(tmp_path / "disk")
