"""Caches that are read where they lie, behind a web server or on the hub: by ranges, without a listing."""

import json
import shutil
from pathlib import Path

import pytest

from kdcache.cache.identity import MAX_BLOCKS, seal
from kdcache.cache.listing import LISTING, Listing
from kdcache.cache.store import Cache
from kdcache.errors import CacheError, CorruptError, UnreadableError, UsageError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.sharing.jobs import write_card
from support.hub_server import TOKEN, Fault, Hub
from support.hub_server import hub as hub
from support.small_cache import FULL, PROVENANCE, VIEW_SET, WINDOWS, fill, kept, open_entry
from support.small_job import Heard


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, one with a view that lacks a block, and lost samples; with the files that a card brings."""
    path = tmp_path_factory.mktemp("source") / "cache"
    entry = fill(open_entry(path), 2)
    entry.write_block(3, 1, kept(entry.codec, 3, 4, 8), PROVENANCE)
    fill(open_entry(path, FULL, name="other"), 1)
    Cache.open(path, read_only=False).add_lost(["a/1", "b/2"])
    write_card(path)
    return path


@pytest.fixture
def url(hub: Hub, source: Path) -> str:
    """The address of a web server that has the cache."""
    hub.web = source.parent
    return f"{hub.url}/web/{source.name}"


def test_a_cache_is_the_same_behind_a_web_server(url: str, source: Path) -> None:
    there, here = Cache.open(url), Cache.open(source)
    assert there.names() == here.names() == ["other", "teacher"]
    assert there.lost() == here.lost() == {"a/1", "b/2"}
    for name in here.names():
        one, other = there.entry(name), here.entry(name)
        assert one.views() == other.views()
        for view in other.views():
            assert one.surely_listed(view) == one.recorded(view) == other.recorded(view)
            for block in other.recorded(view):
                assert one.record(view, block) == other.record(view, block)
                assert list(one.raw_block(view, block)) == list(other.raw_block(view, block))
    assert [len(one.surely_listed(view)) for view in one.views()] == [3, 3, 1]


def test_jobs_that_read_take_an_address(url: str, source: Path) -> None:
    there, here = inspect(InspectOptions(url)), inspect(InspectOptions(str(source)))
    assert there.to_json() | {"cache": ""} == here.to_json() | {"cache": ""}
    assert verify(VerifyOptions(cache=url), Heard()).whole


def test_nothing_is_listed_and_targets_are_read_by_ranges(url: str, hub: Hub) -> None:
    entry = Cache.open(url).entry("other")
    hub.requests.clear()
    entry.read_chunk(0, 0)
    paths = {path for _, path, _ in hub.requests}
    assert paths == {path for path in paths if path.endswith(".json") or "/c/0/" in path}
    assert hub.ranges
    assert all(hub.ranges)


def test_a_token_goes_to_the_hub_alone(url: str, hub: Hub) -> None:
    Cache.open(url).entry("teacher").read_chunk(0, 0)
    assert not any(header for _, _, header in hub.requests)


def test_what_cannot_be_written_there_is_said(url: str, hub: Hub, source: Path, tmp_path: Path) -> None:
    remedy = r"can be read and not written\. Dump into a folder .* `kdcache cache push CACHE hf://"
    with pytest.raises(CacheError, match=remedy):
        Cache.open(url, read_only=False)
    with pytest.raises(CacheError, match=remedy):
        Cache.ensure(url, VIEW_SET, WINDOWS)
    with pytest.raises(CacheError, match=remedy):
        Cache.create(f"{hub.url}/web/new", VIEW_SET, WINDOWS)
    with pytest.raises(CacheError, match=remedy):
        copy_cache(CopyOptions(str(source), f"{hub.url}/web/new"), Heard())
    with pytest.raises(CacheError, match=remedy):
        write_card(url)


def test_a_cache_without_a_listing_tells_what_writes_it(url: str, source: Path, hub: Hub, tmp_path: Path) -> None:
    bare = shutil.copytree(source, tmp_path / "bare")
    (bare / LISTING).unlink()
    hub.web = tmp_path
    with pytest.raises(UnreadableError, match=r"files.json is missing.*`kdcache cache card` writes it"):
        Cache.open(f"{hub.url}/web/bare").names()
    with pytest.raises(CacheError, match="There is no cache at"):
        Cache.open(f"{hub.url}/web/nowhere")


def test_a_server_that_fails_for_a_moment_is_asked_again(url: str, hub: Hub) -> None:
    hub.faults += [Fault("GET", "/other/", kind, times=2) for kind in ("503", "cut", "reset", "flip")]
    entry = Cache.open(url).entry("other")
    assert len(entry.read_block(0, 0)) == 4
    assert all(fault.happened == 2 for fault in hub.faults)


@pytest.mark.parametrize("part", ["me:secret@", "", "?token=secret"])
def test_an_address_with_a_secret_is_refused_and_not_shown(part: str) -> None:
    address = f"https://{part}server/cache" if part.endswith("@") else f"https://server/cache{part or '?secret'}"
    with pytest.raises(UsageError, match=r"https://server/cache has a user, a password or a query") as caught:
        Cache.open(address)
    assert "secret" not in str(caught.value)


def test_the_token_that_a_server_repeats_is_not_shown(hub: Hub) -> None:
    with pytest.raises(CacheError, match="Cannot read hf://datasets/me/none: there is no such data set") as caught:
        Cache.open("hf://datasets/me/none")
    assert TOKEN not in str(caught.value)


def test_a_listing_is_what_it_was() -> None:
    listing = Listing({"a": {0: ((0, 3), (5, 6)), 12: ((1, 2),)}, "b": {}}, frozenset({"0" * 32}))
    assert Listing.from_bytes(listing.to_bytes(), "x") == listing
    assert listing.names("teachers/a/records/0") == ["0.json", "1.json", "2.json", "5.json"]
    assert listing.names("teachers/a/records") == ["0", "12", "zarr.json"]
    assert listing.names("teachers") == ["a", "b", "zarr.json"]
    assert listing.names("lost") == [f"{'0' * 32}.json"]
    assert listing.names("") is None
    keys = ["zarr.json", "teachers/a/zarr.json", "teachers/a/records/0/7.json", "teachers/a/x/c/0/0", "a/b/c.json"]
    assert Listing.of_keys(keys) == Listing({"a": {0: ((7, 8),)}})


@pytest.mark.parametrize(
    "content",
    [
        {"teachers": {"a": {"0": [[0, MAX_BLOCKS + 1]]}}, "lost": []},
        {"teachers": {"a": {"0": [[3, 4], [0, 1]]}}, "lost": []},
        {"teachers": {"a": {"0": [[0.0, 1]]}}, "lost": []},
        {"teachers": {"a": {"00": [[0, 1]]}}, "lost": []},
        {"teachers": {"a": {"99999999": [[0, 1]]}}, "lost": []},
        {"teachers": ["a"], "lost": []},
        {"teachers": {}},
    ],
)
def test_a_listing_that_makes_no_sense_is_refused(content: dict[str, object]) -> None:

    with pytest.raises(CorruptError, match="is no listing of a cache"):
        Listing.from_bytes(json.dumps(seal(content)).encode(), "x/files.json")


def test_an_altered_listing_is_refused() -> None:
    data = Listing({"a": {0: ((0, 3),)}}).to_bytes()
    with pytest.raises(CacheError, match="altered"):
        Listing.from_bytes(data.replace(b"[0,3]", b"[0,4]"), "x/files.json")
