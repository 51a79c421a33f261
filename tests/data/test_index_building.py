"""The index: when it is built anew, and where it lies."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from kdcache.data import index as index_module
from kdcache.data.columns import META
from kdcache.data.index import build_index, open_index
from kdcache.data.places import claimed
from kdcache.data.scan import scan_shard
from kdcache.errors import DataError
from kdcache.runtime.progress import silent
from support.indexing import SHARED, Listener, builds
from support.shards import make_samples, make_shards, write_set, write_tar


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "set", images=12, size=(16, 20), shards=3, varied=True)


# When it is built


def test_an_index_is_built_once(shards: Path) -> None:
    assert [builds(shards) for _ in range(3)] == [1, 0, 0]
    listener = Listener()
    build_index(shards, progress=listener)
    assert listener.builds == 1


def test_an_index_moves_with_its_shards(shards: Path, tmp_path: Path) -> None:
    before = open_index(shards)
    shards.rename(tmp_path / "moved")
    assert builds(tmp_path / "moved") == 0
    after = open_index(tmp_path / "moved")
    assert after.fingerprint == before.fingerprint
    assert all(os.path.exists(shard) for shard in after.shards)


def rewrite_with_another_time(shards: Path) -> None:
    shard = shards / "shard-000001.tar"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))


def rewrite_with_another_size(shards: Path) -> None:
    shard = shards / "shard-000001.tar"
    before = shard.stat()
    with shard.open("ab") as file:
        file.write(bytes(512))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def add_a_shard(shards: Path) -> None:
    write_tar(shards / "shard-000003.tar", [make_samples(13, (8, 8))[12]])


def remove_a_shard(shards: Path) -> None:
    (shards / "shard-000002.tar").unlink()


def rename_a_shard(shards: Path) -> None:
    (shards / "shard-000002.tar").rename(shards / "shard-000009.tar")


def make_the_index_old(shards: Path) -> None:
    meta = shards / "kdcache-index" / META
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 0'))


def lose_a_column(shards: Path) -> None:
    (shards / "kdcache-index" / "width.npy").unlink()


def cut_a_column(shards: Path) -> None:
    column = shards / "kdcache-index" / "width.npy"
    os.truncate(column, column.stat().st_size - 1)


def scramble_the_header(shards: Path) -> None:
    (shards / "kdcache-index" / META).write_text("{")


@pytest.mark.parametrize(
    "change",
    [
        rewrite_with_another_time,
        rewrite_with_another_size,
        add_a_shard,
        remove_a_shard,
        rename_a_shard,
        make_the_index_old,
        lose_a_column,
        cut_a_column,
        scramble_the_header,
    ],
)
def test_an_index_that_does_not_fit_is_built_again(shards: Path, change) -> None:  # type: ignore[no-untyped-def]
    open_index(shards)
    change(shards)
    assert [builds(shards) for _ in range(2)] == [1, 0]
    tables = [scan_shard(str(shard), unlabelled=False) for shard in sorted(shards.glob("*.tar"))]
    assert len(open_index(shards)) == sum(len(table.offset) for table in tables)


def test_an_open_index_stays_whole_when_another_takes_its_place(shards: Path) -> None:
    old = open_index(shards)
    lengths = old.length.tolist()
    add_a_shard(shards)
    assert len(open_index(shards)) == 13
    assert old.length.tolist() == lengths


def test_worker_processes_find_the_same(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, images=12, size=(8, 8), shards=6)
    here = build_index(shards, workers=1)
    columns = {name: getattr(here, name).copy() for name in (*SHARED, "shard", "offset")}
    listener = Listener()
    there = build_index(shards, workers=2, progress=listener)
    assert here.fingerprint == there.fingerprint
    for name, column in columns.items():
        np.testing.assert_array_equal(getattr(there, name), column)
    assert listener.lines == [f"indexed 12 samples in 6 shards: {there.path}"]


def test_one_sample_in_one_shard_is_counted_as_one(tmp_path: Path) -> None:
    listener = Listener()
    built = build_index(make_shards(tmp_path, images=1, size=(8, 8), shards=1), workers=1, progress=listener)
    assert listener.lines == [f"indexed 1 sample in 1 shard: {built.path}"]


def test_what_is_passed_over_is_told_in_a_line_when_the_index_is_built(shards: Path) -> None:
    for number, path in enumerate(sorted(shards.glob("*.tar"))):
        with tarfile.open(path, "a") as tar:
            for name in ("n1/._img-00000.jpg", "__info__/about.json", "README", "img-00001.json", "img-00001.seg.png"):
                if not (number and name.startswith("img")):
                    tar.addfile(tarfile.TarInfo(name))
    first = shards / "shard-000000.tar"
    first.write_bytes(first.read_bytes() + (shards / "shard-000001.tar").read_bytes())
    (shards / "shard-000001.tar").unlink()
    listener = Listener()
    index = open_index(shards, progress=listener)
    assert len(index) == 12
    passed, joined, _ = listener.lines
    assert passed == (
        "passed over members that belong to no sample: "
        f"3 hidden files (such as n1/._img-00000.jpg in {first}), "
        f"3 metadata members (__x__) (such as __info__/about.json in {first}), "
        f"3 names without an extension (such as README in {first}); "
        "components of samples that are neither images nor labels: 1 .json, 1 .seg.png"
    )
    assert re.match(rf"1 shard holds several archives one after another.*such as {first}\)", joined)
    assert listener.warnings == [joined]


def test_an_error_in_a_worker_process_is_the_error_here(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, images=12, size=(8, 8), shards=6)
    os.truncate(shards / "shard-000003.tar", 1000)
    with pytest.raises(DataError, match=r"shard-000003\.tar is cut short"):
        build_index(shards, workers=2)


def test_where_worker_processes_cannot_start_this_one_does_the_work(
    tmp_path: Path,
) -> None:
    shards = make_shards(tmp_path, images=12, size=(8, 8), shards=6)
    # a script from standard input cannot be imported again by a process that is spawned
    script = f"from kdcache.data.index import build_index\nprint(len(build_index({str(shards)!r}, workers=2)))"
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout == "12\n"


def test_importing_and_opening_the_index_needs_no_torch(shards: Path) -> None:
    script = (
        "import sys; from kdcache.data.index import open_index; from kdcache.data.reader import SampleReader\n"
        f"open_index({str(shards)!r}); print([name for name in ('torch', 'webdataset') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Where it lies


def test_a_pattern_has_an_index_of_its_own_beside_the_shards(shards: Path) -> None:
    whole, part = open_index(shards), open_index(f"{shards}/shard-{{000000..000001}}.tar")
    assert (len(whole), len(part)) == (12, 8)
    assert whole.path == shards / "kdcache-index"
    assert part.path.parent == shards
    assert part.path.name.startswith("kdcache-index-")
    assert part.class_names == whole.class_names
    other = open_index(f"{shards}/shard-00000{{0,2}}.tar")
    assert other.fingerprint != part.fingerprint
    assert builds(shards) == builds(f"{shards}/shard-00000{{0,1}}.tar") == 0


def test_a_pattern_over_folders_has_its_index_in_their_common_parent(tmp_path: Path) -> None:
    samples = make_samples(4, (8, 8))
    write_set(tmp_path / "a", samples[:2], 1)
    write_set(tmp_path / "b", samples[2:], 1)
    index = open_index(f"{tmp_path}/{{a,b}}/shard-000000.tar")
    assert len(index) == 4
    assert index.path.parent == tmp_path


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder in which nobody, not even root, can make anything."""
    (tmp_path / "file").touch()
    return tmp_path / "file"


def test_where_the_shards_cannot_be_written_beside_the_index_lies_in_the_cache_folder(
    shards: Path, unwritable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = index_module.index_places
    monkeypatch.setattr(index_module, "index_places", lambda *asked: (unwritable / "index", real(*asked)[1]))
    index = open_index(shards)
    assert tmp_path / "cache" / "kdcache" in index.path.parents
    assert len(index) == 12
    assert builds(shards) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user that is not root, who may write everywhere")
def test_a_folder_without_write_permission_is_left_alone(shards: Path) -> None:
    shards.chmod(0o555)
    try:
        assert shards not in open_index(shards).path.parents
    finally:
        shards.chmod(0o755)


def test_no_place_to_write_is_an_error_that_says_where_it_was_tried(unwritable: Path) -> None:
    places = [unwritable / "a" / "index", unwritable / "b" / "index"]
    with pytest.raises(DataError, match="XDG_CACHE_HOME") as caught, claimed(places, silent, wait=True):
        pass
    assert str(unwritable / "a") in str(caught.value)
    assert str(unwritable / "b") in str(caught.value)
