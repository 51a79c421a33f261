"""The index: what it says, when it is built anew, and where it lies."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data import index as index_module
from kdcache.data.columns import COLUMNS, KEY_START, META, Source, save
from kdcache.data.index import build_index, key_hash, open_index
from kdcache.data.index_writer import IndexWriter, hash_keys
from kdcache.data.places import claimed
from kdcache.data.scan import scan_shard
from kdcache.errors import DataError
from kdcache.progress import Task, silent
from support.crashing import kills
from support.shards import Sample, make_samples, make_shards, write_set, write_tar

SHARED = ("key_hash", "length", "height", "width", "label", "key_start", "key_bytes")
"""The columns on which two shardings of the same samples agree."""


class Listener:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> AbstractContextManager[Task]:
        return silent.task(title, total, unit, done)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append(line)

    @property
    def builds(self) -> int:
        return sum(line.startswith("indexed") for line in self.lines)


def builds(data: str | Path, **options: bool) -> int:
    """How often the index is built when it is opened: 0 or 1."""
    listener = Listener()
    open_index(data, progress=listener, **options)
    return listener.builds


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "set", images=12, size=(16, 20), shards=3, varied=True)


# What it says


def test_the_index_holds_every_sample_in_the_order_of_key_hashes(shards: Path) -> None:
    index = open_index(shards)
    samples = {sample.key: sample for sample in make_samples(12, (16, 20), varied=True)}
    assert sorted(index.key(i) for i in range(len(index))) == sorted(samples)
    assert np.all(np.diff(index.key_hash) > 0)
    for i in range(len(index)):
        sample = samples[index.key(i)]
        assert index.key_hash[i] == key_hash(sample.key)
        assert index.label[i] == sample.label
        with open(index.shards[index.shard[i]], "rb") as shard:
            shard.seek(index.offset[i])
            assert shard.read(index.length[i]) == sample.data
        assert index.describe(i) == f"{sample.key} in {index.shards[index.shard[i]]} at byte {index.offset[i]}"


def test_columns_are_memory_maps(shards: Path) -> None:
    index = open_index(shards)
    for name in ("key_hash", "shard", "offset", "length", "height", "width", "label", "key_bytes"):
        column = getattr(index, name)
        assert isinstance(column.base, np.memmap)
        assert not column.flags.writeable


def test_the_key_hash_is_blake2b_read_little_endian() -> None:
    # from `printf KEY | b2sum -l 64`
    assert key_hash("img-00000") == int.from_bytes(bytes.fromhex("d4750afc0c8a6eb7"), "little")
    assert key_hash("train/n01/é") == int.from_bytes(bytes.fromhex("cf33c99324a80f18"), "little")


@given(st.lists(st.text(max_size=5), max_size=8))
def test_many_keys_are_hashed_as_one_is(keys: list[str]) -> None:
    encoded = [key.encode() for key in keys]
    hashes = hash_keys(b"".join(encoded), np.array([len(key) for key in encoded], np.int64))
    assert np.frombuffer(hashes, "<u8").tolist() == [key_hash(key) for key in keys]


def ppm(height: int, width: int) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + bytes(height * width * 3)


def test_the_fingerprint_is_what_its_definition_says(tmp_path: Path) -> None:
    samples = [
        Sample("a", "ppm", ppm(2, 3), 1),
        Sample("bé", "ppm", ppm(4, 5), 0),
        Sample("c", "ppm", ppm(1, 1), 2),
    ]
    index = open_index(write_set(tmp_path, samples, shards=2))
    ordered = sorted(samples, key=lambda sample: key_hash(sample.key))
    keys = [sample.key.encode() for sample in ordered]
    total = hashlib.blake2b(b"kdcache index 1 3", digest_size=32)
    total.update(np.array([len(key) for key in keys], "<i8").tobytes())
    total.update(b"".join(keys))
    total.update(np.array([sample.label for sample in ordered], "<i4").tobytes())
    total.update(np.array([len(sample.data) for sample in ordered], "<i8").tobytes())
    sizes = {"a": (2, 3), "bé": (4, 5), "c": (1, 1)}
    for side in (0, 1):
        total.update(np.array([sizes[sample.key][side] for sample in ordered], "<i4").tobytes())
    assert index.fingerprint == total.hexdigest()
    assert index.fingerprint == "68a8a46585cfc5d52c0c5216a015926d1a95b95ae4e9c960fa8f901cad97cd07"


def test_resharding_and_moving_change_neither_fingerprint_nor_samples(tmp_path: Path) -> None:
    one = open_index(make_shards(tmp_path / "a", images=80, size=(8, 8), shards=2))
    other = open_index(make_shards(tmp_path / "b" / "c", images=80, size=(8, 8), shards=70, shuffle=5))
    assert len(other.shards) == 70
    assert one.fingerprint == other.fingerprint
    for name in SHARED:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def changed(samples: list[Sample], **fields: object) -> list[Sample]:
    return [samples[0]._replace(**fields), *samples[1:]]


@pytest.mark.parametrize(
    "change",
    [
        {"key": "another"},
        {"label": 7},
        {"data": ppm(3, 2)},  # as many bytes, other sides
        {"data": ppm(2, 3) + b"\0"},  # the same sides, another length
    ],
)
def test_another_key_label_size_or_encoding_changes_the_fingerprint(tmp_path: Path, change: dict[str, object]) -> None:
    samples = [Sample("a", "ppm", ppm(2, 3), 1), Sample("b", "ppm", ppm(4, 5), 0)]
    one = open_index(write_set(tmp_path / "one", samples, shards=1))
    other = open_index(write_set(tmp_path / "other", changed(samples, **change), shards=1))
    assert one.fingerprint != other.fingerprint


def test_class_names_come_from_beside_the_shards(shards: Path) -> None:
    assert open_index(shards).class_names == tuple(f"class {label}" for label in range(10))
    (shards / "classes.json").write_text(json.dumps([f"Art {i}" for i in range(11)]))
    assert open_index(shards).class_names[0] == "Art 0"
    assert open_index(shards).num_classes == 11
    (shards / "classes.json").unlink()
    assert open_index(shards).class_names is None
    assert open_index(shards).num_classes == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["one", "two"]', "names 2 classes, but the labels go up to 9"),
        ('{"0": "one"}', "not a JSON list"),
        ("[1, 2]", "not a JSON list"),
        ("[", "cannot be read"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(shards: Path, content: str, message: str) -> None:
    (shards / "classes.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_index(shards)


def test_without_labels_there_is_another_index(shards: Path) -> None:
    labelled, unlabelled = open_index(shards), open_index(shards, unlabelled=True)
    assert set(unlabelled.label.tolist()) == {-1}
    assert labelled.fingerprint != unlabelled.fingerprint
    assert builds(shards) == builds(shards, unlabelled=True) == 0
    shutil.rmtree(unlabelled.path)
    labelled.path.rename(unlabelled.path)
    assert builds(shards, unlabelled=True) == 1


def test_samples_without_labels_are_taken_as_unlabelled(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, images=4, labelled=False)
    with pytest.raises(DataError, match="--unlabelled"):
        open_index(shards)
    index = open_index(shards, unlabelled=True)
    assert (len(index), index.num_classes, index.class_names) == (4, 0, None)


# Duplicates


@pytest.mark.parametrize("shards", [1, 2])
def test_a_key_that_comes_again_is_an_error_that_names_both_places(tmp_path: Path, shards: int) -> None:
    samples = make_samples(6, (8, 8))
    write_set(tmp_path, [*samples[:5], samples[2]], shards)
    with pytest.raises(DataError, match="must name one sample") as caught:
        open_index(tmp_path)
    message = str(caught.value)
    assert "img-00002" in message
    named = 0
    for path in tmp_path.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name == "img-00002.jpg":
                    assert f"in {path} at byte {member.offset_data}" in message
                    named += 1
    assert named == 2
    assert not (tmp_path / "kdcache-index").exists()


def test_keys_with_one_hash_are_an_error_that_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.data.index_writer.hash_keys", lambda keys, lengths: bytes(8 * len(lengths)))
    with pytest.raises(DataError, match=r"img-00000 \(in .*\) and img-00001 \(in .*\) have the same 64-bit"):
        open_index(make_shards(tmp_path, images=2, shards=2))


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
        "import sys; from kdcache.data.index import open_index; from kdcache.data.shards import SampleReader\n"
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_left_alone(shards: Path) -> None:
    shards.chmod(0o555)
    try:
        assert shards not in open_index(shards).path.parents
    finally:
        shards.chmod(0o755)


def test_no_place_to_write_is_an_error_that_says_where_it_was_tried(unwritable: Path) -> None:
    places = [unwritable / "a" / "index", unwritable / "b" / "index"]
    with pytest.raises(DataError, match="XDG_CACHE_HOME") as caught, claimed(places):
        pass
    assert str(unwritable / "a") in str(caught.value)
    assert str(unwritable / "b") in str(caught.value)


# Accidents


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexWriter, "add", full)
    with pytest.raises(DataError, match=r"No space left on device\. Free some space"):
        open_index(shards)
    assert [path.name for path in shards.glob("*index*")] == [".kdcache-index.lock"]


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
        found = index_module._load(shards / "kdcache-index", source)
        if found is not None:
            assert len(found) == 13
        if (shards / "kdcache-index").exists():
            assert {path.name for path in (shards / "kdcache-index").iterdir()} >= files
        deaths += 1
    assert deaths > 15
    (shards / "shard-000003.tar").unlink()
    assert open_index(shards).fingerprint == expected
    assert sorted(path.name for path in shards.iterdir() if "index" in path.name) == [
        ".kdcache-index.lock",
        "kdcache-index",
    ]


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
    index = index_module._load(folder, source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index is not None
    assert len(index) == rows
    assert peak < 1_000_000
