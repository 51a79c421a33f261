"""The index: what it says of the samples, and which keys it refuses."""

import hashlib
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data.index import key_hash, open_index
from kdcache.data.index_writer import hash_keys
from kdcache.errors import DataError
from support.indexing import SHARED, Listener, builds
from support.shards import Sample, make_samples, make_shards, write_set


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "set", images=12, size=(16, 20), shards=3, varied=True)


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
        ('["one", "two"]', r"names 2 classes, but the labels go up to 9 \(that of img-00009 in .*\.tar at byte \d+\)"),
        ('{"one": 0}', r'not a JSON list of class names in the order of their labels, such as \["cat"'),
        ("[1, 2]", "not a JSON list"),
        ("[", "cannot be read"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(shards: Path, content: str, message: str) -> None:
    (shards / "classes.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_index(shards)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (sorted(map(str, range(12))), "label 2 means class 10"),
        ([str(number) for number in range(12)], None),
        ([f"{number:03d}" for number in range(12)], None),
        (["0", "10", "2", *"abcdefghi"], None),
        (["7", "3", *map(str, range(20, 30))], None),
    ],
)
def test_numbers_in_the_order_of_text_are_told_whenever_the_index_is_opened(
    shards: Path, names: list[str], told: str | None
) -> None:
    """As an import of folders made them before it knew of numbers."""
    open_index(shards)
    (shards / "classes.json").write_text(json.dumps(names))
    listener = Listener()
    open_index(shards, progress=listener)
    assert len(listener.warnings) == (told is not None)
    assert told is None or told in listener.warnings[0]


@pytest.mark.parametrize(("label", "told"), [(9_999, True), (999, False)])
def test_a_label_far_beyond_the_others_is_told_with_its_sample(tmp_path: Path, label: int, told: bool) -> None:
    samples = make_samples(12, (8, 8))
    samples[7] = samples[7]._replace(label=label)
    listener = Listener()
    index = open_index(write_set(tmp_path, samples, shards=2, class_names=False), progress=listener)
    assert index.num_classes == label + 1
    assert len(listener.warnings) == told
    if told:
        assert re.match(
            rf"the labels go up to 9,999 \(that of img-00007 in {tmp_path}/shard-000001.tar at byte \d+\), but 10 "
            "different ones are there.*Look at that sample's label",
            listener.warnings[0],
        )


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
                if member.name == ("img-00002.cls" if shards == 1 else "img-00002.jpg"):
                    assert f"in {path} at byte {member.offset_data}" in message
                    named += 1
    assert named == 2
    assert not (tmp_path / "kdcache-index").exists()


def test_keys_with_one_hash_are_an_error_that_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.data.index_writer.hash_keys", lambda keys, lengths: bytes(8 * len(lengths)))
    with pytest.raises(DataError, match=r"img-00000 \(in .*\) and img-00001 \(in .*\) have the same 64-bit"):
        open_index(make_shards(tmp_path, images=2, shards=2))
