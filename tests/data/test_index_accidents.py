"""The index: full disks, damaged shards, killed builds, several processes, many samples."""

import json
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kdcache.data.columns import COLUMNS, KEY_START, META, Source, save
from kdcache.data.index import load_index, open_index
from kdcache.data.index_writer import IndexWriter
from kdcache.errors import DataError
from support.crashing import kills
from support.indexing import Listener
from support.shards import make_samples, make_shards, write_tar


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "set", images=12, size=(16, 20), shards=3, varied=True)


def add_a_shard(shards: Path) -> None:
    write_tar(shards / "shard-000003.tar", [make_samples(13, (8, 8))[12]])


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexWriter, "add", full)
    with pytest.raises(DataError, match=r"No space left on device\. What was there before is whole: make room"):
        open_index(shards)
    assert [path.name for path in shards.glob("*index*")] == []


def test_a_failed_build_keeps_the_older_index(shards: Path) -> None:
    old = (open_index(shards).path / META).read_bytes()
    os.truncate(shards / "shard-000000.tar", 1000)
    with pytest.raises(DataError, match="cut short"):
        open_index(shards)
    assert (shards / "kdcache-index" / META).read_bytes() == old


def test_killed_at_any_step_a_build_leaves_no_half_index(shards: Path) -> None:
    expected = open_index(shards).fingerprint
    files = {path.name for path in (shards / "kdcache-index").iterdir()}
    add_a_shard(shards)
    deaths = 0
    for _ in kills(lambda: open_index(shards)):
        source = Source.of(shards, map(str, sorted(shards.glob("*.tar"))), unlabelled=False)
        found = load_index(shards / "kdcache-index", source)
        if found is not None:
            assert len(found) == 13
        if (shards / "kdcache-index").exists():
            assert {path.name for path in (shards / "kdcache-index").iterdir()} >= files
        deaths += 1
    assert deaths > 15
    (shards / "shard-000003.tar").unlink()
    assert open_index(shards).fingerprint == expected
    assert sorted(path.name for path in shards.iterdir() if "index" in path.name) == ["kdcache-index"]


def test_who_opens_an_index_that_is_being_built_waits_for_it(shards: Path) -> None:
    listener = Listener()
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_index(shards, progress=listener), range(8)))
    assert {index.fingerprint for index in opened} == {open_index(shards).fingerprint}
    assert listener.builds == 1


def test_opening_fourteen_million_samples_reads_none_of_them(tmp_path: Path) -> None:
    rows, folder = 14_000_000, tmp_path / "kdcache-index"
    folder.mkdir()
    for name, dtype in {**COLUMNS, "key_start": KEY_START, "key_bytes": np.dtype("u1")}.items():
        count = rows + (name == "key_start")
        save(folder, name, dtype, [], count)
        os.truncate(folder / f"{name}.npy", 128 + count * dtype.itemsize)  # a hole, not bytes
    source = Source(tmp_path, (("shard-000000.tar", 1, 2),), unlabelled=False)
    meta = {"format": 1, "samples": rows, "labels": 1000, "fingerprint": "f", "source": source.to_json()}
    (folder / META).write_text(json.dumps(meta))
    tracemalloc.start()
    index = load_index(folder, source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index is not None
    assert len(index) == rows
    assert peak < 2_000_000, "a buffer of 1 MiB for the JSON; one byte a sample would be 14 MB"
