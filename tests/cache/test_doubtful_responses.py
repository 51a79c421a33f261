"""An object store that says wrong things for a moment: nothing is dropped, missed or called damaged for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdcache.cache.claims import open_claims
from kdcache.cache.layout import record_key
from kdcache.cache.objects import ObjectFiles
from kdcache.cache.store import Cache
from kdcache.errors import CacheError, CorruptError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.loader.cached_teachers import open_cached_teachers
from support.faulty_store import Faults, faulty
from support.s3 import s3, s3_server  # noqa: F401
from support.small_cache import TOPK, VIEW_SET, WINDOWS, fill, identity_of, kept, tree

#: A sixth of all responses are wrong, never more than three in a row to the same question.
DOUBTFUL = {"404": 0.17, "flip": 0.17, "stale": 0.17}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a cache of two views, by its key."""
    path = tmp_path_factory.mktemp("whole") / "cache"
    fill(Cache.create(path, VIEW_SET, WINDOWS).add_teacher(identity_of(TOPK), TOPK), 2)
    return {key: data for key, data in tree(path).items() if data is not None}


@pytest.fixture
def url(s3: str, whole: dict[str, bytes]) -> str:  # noqa: F811
    """The same cache in a bucket."""
    files = ObjectFiles(f"{s3}/cache")
    for key, data in whole.items():
        files.put(key, data)
    return files.url


@pytest.fixture
def behind(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Faults], Faults]]:  # noqa: F811
    """From then on every store that is opened lies behind a proxy with these faults."""
    proxies = []

    def put_before(faults: Faults) -> Faults:
        proxies.append(faulty(s3_server, faults))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxies[-1].__enter__())
        return faults

    yield put_before
    for proxy in proxies:
        proxy.__exit__(None, None, None)


def everything(url: str) -> dict[str, bytes]:
    files, found = ObjectFiles(url), {}
    for state in files._store.states(""):
        data = files.get(state.key)
        assert data is not None
        found[state.key] = data
    return found


def test_repair_drops_nothing_that_is_sound(
    url: str, whole: dict[str, bytes], behind: Callable[[Faults], Faults]
) -> None:
    faults = behind(Faults(DOUBTFUL))
    report = verify(VerifyOptions(url, repair=True))
    assert report.findings == ()
    assert (report.blocks, report.whole, report.missing) == (6, True, ())
    assert faults.happened.keys() == {"404", "flip", "stale"}
    behind(Faults({}))
    assert everything(url) == whole


def test_what_is_lost_or_damaged_is_found_among_doubtful_responses(
    url: str, behind: Callable[[Faults], Faults]
) -> None:
    files = ObjectFiles(url)
    files.delete("teachers/teacher/tail/c/0/1")
    data = files.get("teachers/teacher/tail/c/1/0")
    assert data is not None
    files.put("teachers/teacher/tail/c/1/0", data[:-1] + bytes([data[-1] ^ 1]))
    behind(Faults(DOUBTFUL))
    report = verify(VerifyOptions(url, repair=True))
    assert [(found.view, found.block) for found in report.findings] == [(0, 1), (1, 0)]
    assert report.damaged
    behind(Faults({}))
    assert files.size(record_key("teacher", 0, 1)) is files.size(record_key("teacher", 1, 0)) is None
    assert len([key for key in everything(url) if "/records/" in key and key.endswith(".json")]) == 6 - 2 + 1


def test_counts_copies_and_trainings_miss_no_block(
    url: str, whole: dict[str, bytes], behind: Callable[[Faults], Faults], tmp_path: Path
) -> None:
    behind(Faults(DOUBTFUL | {"stale": 0.5}))
    report = inspect(InspectOptions(url))
    assert report.problems == {}
    (teacher,) = report.teachers
    assert (teacher.complete, teacher.missing, teacher.damaged, teacher.problems) == ((0, 1), {}, {}, ())
    assert report.once_bytes == inspect(InspectOptions(str(put_on_disk(whole, tmp_path / "disk")))).once_bytes
    stored = open_cached_teachers(Cache.open(url), None, None)
    assert stored.complete_views() == stored.usable_views(2) == 2
    assert stored.missing_views(1) == []
    copied = copy_cache(CopyOptions(url, str(tmp_path / "copy")))
    assert (copied.copied, copied.whole) == (6, True)
    assert {key: data for key, data in tree(tmp_path / "copy").items() if data is not None} == whole


def put_on_disk(whole: dict[str, bytes], folder: Path) -> Path:
    for key, data in whole.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_writer_puts_nothing_over_what_seems_missing(
    url: str, whole: dict[str, bytes], behind: Callable[[Faults], Faults]
) -> None:
    """Neither another table nor another identity, and a block that is recorded stays as it is."""
    behind(Faults({"404": 0.5, "stale": 0.5, "flip": 0.3}))
    assert Cache.exists(url)
    cache = Cache.ensure(url, VIEW_SET, WINDOWS)
    entry = cache.add_teacher(identity_of(TOPK), TOPK)
    assert cache.names() == ["teacher"]
    with pytest.raises(CacheError, match="recorded already"):
        entry.write_block(0, 1, kept(TOPK, 0, 4, 8), {"made": "otherwise"})
    assert cache.lost_tables("teacher") == {}
    entry.write_block(2, 0, kept(TOPK, 2, 0, 4), {"made": "now"})
    behind(Faults({}))
    found = everything(url)
    assert {key: found.get(key) for key in whole} == whole


def test_bytes_that_stay_wrong_are_damage(url: str, behind: Callable[[Faults], Faults]) -> None:
    behind(Faults({"flip": 1.0}, only="/tail/c/0/0", forever=True))
    entry = Cache.open(url).entry("teacher")
    with pytest.raises(CorruptError, match="is not what was written"):
        entry.read_chunk(0, 0)
    assert len(entry.read_chunk(0, 1)) == 4


def test_a_claim_is_kept_and_given_back_among_faults(url: str, behind: Callable[[Faults], Faults]) -> None:
    behind(Faults({"404": 0.3, "500": 0.3, "reset-after": 0.3, "cut": 0.3}))
    with open_claims(ObjectFiles(url)) as one, open_claims(ObjectFiles(url)) as two:
        for number in range(5):
            assert one.take(f"{number}")
            assert not two.take(f"{number}")
        one.release("0")
        assert two.take("0")
    behind(Faults({}))
    assert not [key for key in everything(url) if key.startswith(".partial/claim")]
