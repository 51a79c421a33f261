"""What a dump puts right of a damaged cache, and what a training says of a part of one."""

import dataclasses
import random
import shutil
from pathlib import Path

import pytest

from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.dumping.dump import dump
from kdcache.errors import CorruptError, UsageError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.loader import opening
from kdcache.loader.opening import stored_views
from kdcache.training.train import train
from support.small_job import MODEL, Heard, dump_request, train_request, tree_bytes


def request(job, path):
    return dump_request(job.data, path, job.weights, job.policy, targets="topk", renderer="pillow", views=1)


@pytest.fixture(scope="module")
def topk(job, tmp_path_factory):
    path = tmp_path_factory.mktemp("topk") / "cache"
    dump(request(job, path))
    return path


FILES = ("zarr.json", "windows/c/0", "windows/zarr.json", "teachers/zarr.json", f"teachers/{MODEL}/zarr.json",
         f"teachers/{MODEL}/order/c/0/0", f"teachers/{MODEL}/order/zarr.json", f"teachers/{MODEL}/tail/zarr.json",
         f"teachers/{MODEL}/records/zarr.json", f"teachers/{MODEL}/records/0/1.json",
         f"teachers/{MODEL}/class/c/0/2")  # fmt: skip


@pytest.mark.parametrize("key", FILES)
def test_repair_and_the_same_dump_make_the_very_same_cache(job, topk, tmp_path, key):
    """With a real teacher, who learns the order of classes anew where it was lost."""
    path = Path(shutil.copytree(topk, tmp_path / "cache"))
    data, rng = (path / key).read_bytes(), random.Random(key)
    place = rng.randrange(len(data))
    (path / key).write_bytes(data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :])
    assert not verify(VerifyOptions(str(path), repair=True)).whole
    dump(request(job, path))
    assert tree_bytes(path) == tree_bytes(topk)
    assert verify(VerifyOptions(str(path))).whole


def test_windows_are_not_made_up_where_the_shards_lie_otherwise_now(job, topk, tmp_path, monkeypatch):
    path = Path(shutil.copytree(topk, tmp_path / "cache"))
    (path / "windows/c/0").write_bytes(b"?")
    derive = opening.derive_windows

    def other(*arguments):
        found = derive(*arguments)
        return dataclasses.replace(found, ids=found.ids + 1)

    monkeypatch.setattr(opening, "derive_windows", other)
    for use in (lambda: dump(request(job, path)), lambda: stored_views(Cache.open(path), open_index(job.data))):
        with pytest.raises(CorruptError, match=r"windows/c/0.*as they did when the cache was made"):
            use()


def test_a_part_without_the_first_views_is_refused_with_what_helps(job, tmp_path):
    path = tmp_path / "part"
    copy_cache(CopyOptions(str(job.cache), str(path), "2:9"))
    with pytest.raises(UsageError, match=r"holds views 2-8, without 0\. .*--views 0:1`.*--views 9\.$"):
        train(train_request(job.data, tmp_path / "run", cache=str(path)))
    copy_cache(CopyOptions(str(job.cache), str(path), "0:1"))
    assert Cache.open(path).entry(MODEL).complete_views() == 1
    train(train_request(job.data, tmp_path / "run", cache=str(path), epochs=1))


def test_a_gap_that_keeps_views_from_a_training_is_warned_of(job, tmp_path):
    path = Path(shutil.copytree(job.cache, tmp_path / "cache"))
    records = path / "teachers" / MODEL / "records"

    def told(out, **choice):
        heard = Heard()
        train(train_request(job.data, tmp_path / out, cache=str(path), renderer="pillow", **choice), heard)
        return heard.said, [line for line in heard.warned if "lacks" in line]

    (records / "9" / "0.json").unlink()
    said, warned = told("unfinished", epochs=10)
    assert not warned
    assert (
        f"{MODEL} lacks block 0 of view 9: until the same dump-logits has made it, trainings take views 0-8 only."
        in (said)
    )
    assert any("10 epochs over 9 views" in line for line in said)
    (records / "1" / "0.json").unlink()
    said, warned = told("gap", epochs=3)
    assert any(line.startswith("3 epochs over 1 view: each is shown 3 times") for line in said)
    (line,) = warned
    assert f"{MODEL} lacks block 0 of view 1" in line
    assert "dump-logits" in line
    assert "trainings take view 0 only, of 8 views that are whole" in line
    assert not told("content", epochs=3, overrides=("views.count=1",))[1], "that few were asked for"
    assert not told("short", epochs=1)[1], "it sees no view twice"


def test_a_cache_without_a_complete_view_is_refused(job, tmp_path):
    path = Path(shutil.copytree(job.cache, tmp_path / "cache"))
    for record in path.glob("teachers/*/records/*/1.json"):
        record.unlink()
    with pytest.raises(UsageError, match=r"no view in the cache that is complete in every block: run the same"):
        train(train_request(job.data, tmp_path / "run", cache=str(path)))
