"""A part of a data set: fixed by the keys, nested, usable as DATA."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data.check import check_index
from kdcache.data.columns import META
from kdcache.data.index import Index, open_index
from kdcache.data.part import part_of, write_part
from kdcache.data.reader import SampleReader
from kdcache.errors import DataError, UsageError
from kdcache.render.encoded import faults
from support.command_line import kdcache
from support.shards import make_samples, make_shards, write_set, write_tar

fractions = st.floats(0.001, 1)
labels = st.lists(st.integers(-1, 4), min_size=1, max_size=60).map(lambda values: np.array(values, np.int32))


@given(labels, fractions, fractions, st.booleans())
def test_a_smaller_part_lies_within_a_larger_one(label: np.ndarray, one: float, other: float, stratified: bool) -> None:
    small, large = (part_of(label, fraction, stratified) for fraction in sorted((one, other)))
    assert set(small) <= set(large)
    assert np.all(np.diff(large) > 0)


@given(labels, fractions)
def test_a_stratified_part_has_its_share_of_every_class(label: np.ndarray, fraction: float) -> None:
    taken = label[part_of(label, fraction, True)]
    for value in np.unique(label):
        assert abs((taken == value).sum() - max(1, fraction * (label == value).sum())) <= 0.5


@given(labels, fractions)
def test_a_part_has_its_share_of_all(label: np.ndarray, fraction: float) -> None:
    assert abs(len(part_of(label, fraction, False)) - max(1, fraction * len(label))) <= 0.5


def test_the_whole_is_a_part() -> None:
    label = np.array([1, 0, 1, 2], np.int32)
    for stratified in (False, True):
        assert part_of(label, 1.0, stratified).tolist() == [0, 1, 2, 3]


def keys(index: Index) -> set[str]:
    return {index.key(i) for i in range(len(index))}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "set", images=60, size=(8, 8), shards=3)


def test_a_part_is_opened_as_data_and_reads_the_shards_of_the_whole(whole: Path, tmp_path: Path) -> None:
    index = open_index(whole)
    written = write_part(index, 0.25, tmp_path / "deep" / "part", stratified=True)
    part = open_index(tmp_path / "deep" / "part")
    assert part.fingerprint == written.fingerprint != index.fingerprint
    assert np.bincount(part.label).tolist() == [2] * 10
    assert keys(part) < keys(index)
    assert np.all(np.diff(part.key_hash) > 0)
    assert (part.num_classes, part.class_names, part.shards) == (10, index.class_names, index.shards)
    content = {sample.key: sample.data for sample in make_samples(60, (8, 8))}
    with SampleReader(part) as reader:
        assert reader.read(np.arange(len(part))) == [content[part.key(i)] for i in range(len(part))]


def test_a_part_does_not_depend_on_the_shards(whole: Path, tmp_path: Path) -> None:
    other = make_shards(tmp_path / "other", images=60, size=(8, 8), shards=7, shuffle=3)
    one = write_part(open_index(whole), 0.3, tmp_path / "a")
    two = write_part(open_index(other), 0.3, tmp_path / "b")
    assert one.fingerprint == two.fingerprint


def test_a_part_of_a_part_is_a_part(whole: Path, tmp_path: Path) -> None:
    half = write_part(open_index(whole), 0.5, tmp_path / "half")
    quarter = write_part(half, 0.5, tmp_path / "quarter")
    assert keys(quarter) == keys(write_part(open_index(whole), 0.25, tmp_path / "other"))


def test_the_checksums_of_a_checked_index_are_taken_over(whole: Path, tmp_path: Path) -> None:
    index = check_index(whole, faults).index
    part = write_part(index, 0.5, tmp_path / "part")
    assert index.crc is not None
    assert part.crc is not None
    assert part.crc.tolist() == index.crc[:30].tolist()


def test_a_class_without_samples_still_counts(tmp_path: Path) -> None:
    data = make_shards(tmp_path / "set", images=10, size=(8, 8), shards=1)
    (data / "classes.json").unlink()
    part = write_part(open_index(data), 0.1, tmp_path / "part")
    assert (len(part), part.num_classes) == (1, 10)


def test_parts_and_shards_move_together(whole: Path, tmp_path: Path) -> None:
    part = write_part(open_index(whole), 0.5, whole / "half")
    whole.rename(tmp_path / "moved")
    moved = open_index(tmp_path / "moved" / "half")
    assert moved.fingerprint == part.fingerprint
    assert all(Path(shard).exists() for shard in moved.shards)


def test_a_part_of_shards_that_have_changed_is_refused(whole: Path, tmp_path: Path) -> None:
    write_part(open_index(whole), 0.5, tmp_path / "part")
    write_tar(whole / "shard-000001.tar", make_samples(1, (8, 8)))
    with pytest.raises(
        DataError, match=rf"have changed.*kdcache index {whole} --fraction 0.5 --out {tmp_path / 'part'}`"
    ):
        open_index(tmp_path / "part")


def test_a_part_may_be_made_again_but_nothing_else_is_replaced(whole: Path, tmp_path: Path) -> None:
    index = open_index(whole)
    write_part(index, 0.5, tmp_path / "part")
    assert len(write_part(index, 0.25, tmp_path / "part")) == 15
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for taken in (tmp_path / "mine", whole, index.path, whole / "shard-000000.tar"):
        with pytest.raises(UsageError, match="is no part of a data set"):
            write_part(index, 0.25, taken)
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_lies_between_0_and_1(whole: Path, tmp_path: Path, fraction: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        write_part(open_index(whole), fraction, tmp_path / "part")


def test_a_part_is_checked_with_the_whole(whole: Path, tmp_path: Path) -> None:
    write_part(open_index(whole), 0.5, tmp_path / "part")
    advice = (
        rf"part of the shards in {whole}\. Check the whole \(`kdcache index {whole} --check`\), then take the part "
        rf"again \(`kdcache index {whole} --fraction 0.5 --out {tmp_path / 'part'}`\)"
    )
    with pytest.raises(UsageError, match=advice):
        check_index(tmp_path / "part", faults)
    with pytest.raises(DataError, match="Name the folder of the shards"):
        check_index(open_index(whole).path, faults)


def test_an_error_about_a_sample_of_a_part_says_what_to_check_and_to_take_again(whole: Path, tmp_path: Path) -> None:
    index = open_index(whole)
    part = write_part(index, 0.5, tmp_path / "part")
    assert index.describe(0).endswith(f" at byte {index.offset[0]}")
    for opened in (part, open_index(tmp_path / "part")):
        assert opened.describe(0) == (
            f"{index.describe(0)} (repair the whole as follows, then take the part {tmp_path / 'part'} of it again)"
        )
        assert opened.data == str(whole)


@pytest.mark.parametrize("name", ["plain", "two words"])
def test_an_index_knows_how_a_command_names_its_shards(whole: Path, tmp_path: Path, name: str) -> None:
    """Quoted where the shell asks for it: the words of a command are those that were given."""
    folder = whole.rename(tmp_path / name)
    for data in (str(folder), f"{folder}/shard-{{000000..000001}}.tar"):
        for _ in ("built", "opened"):
            assert shlex.split(open_index(data).data) == [data]


@pytest.mark.parametrize("name", ["plain", "two words"])
def test_a_part_names_the_data_that_it_was_taken_from(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As the shell takes it, wherever the command is given; and of a part of it too."""
    whole.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    data = f"{name}/shard-{{000000..000001}}.tar"
    half = write_part(open_index(data), 0.5, tmp_path / "parts of it" / "half", stratified=True)
    quarter = write_part(half, 0.5, tmp_path / "quarter")
    for part in (half, open_index(half.path), quarter, open_index(quarter.path)):
        assert shlex.split(part.data) == [f"{tmp_path}/{data}"]
    with pytest.raises(UsageError) as caught:
        check_index(half.path, faults)
    checked, again = (shlex.split(command) for command in str(caught.value).split("`")[1::2])
    assert checked == ["kdcache", "index", f"{tmp_path}/{data}", "--check"]
    assert again[2:] == [f"{tmp_path}/{data}", "--fraction", "0.5", "--stratified", "--out", str(half.path)]
    done = kdcache(*again[1:])
    assert done.returncode == 0, done.stderr
    assert open_index(half.path).fingerprint == half.fingerprint


def test_a_part_that_does_not_say_so_is_of_its_shards_folder(whole: Path, tmp_path: Path) -> None:
    write_part(open_index(whole), 0.5, tmp_path / "part")
    meta = json.loads((tmp_path / "part" / META).read_text())
    del meta["part"]["data"]
    (tmp_path / "part" / META).write_text(json.dumps(meta))
    assert open_index(tmp_path / "part").data == str(whole)


def test_without_labels_the_advice_says_so(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", make_samples(20, (8, 8), labelled=False), shards=1)
    index = open_index(data, unlabelled=True)
    part = write_part(index, 0.5, tmp_path / "part")
    for opened in (index, open_index(data), part, open_index(part.path)):
        assert opened.data == f"{data} --unlabelled"


def test_an_index_is_not_taken_for_the_folder_of_shards(whole: Path) -> None:
    with pytest.raises(DataError, match="Name the folder of the shards"):
        open_index(open_index(whole).path)


def test_the_command_makes_a_part(whole: Path, tmp_path: Path) -> None:
    done = kdcache("index", whole, "--fraction", "0.2", "--stratified", "--out", tmp_path / "part")
    assert done.returncode == 0, done.stderr
    assert "20 samples, 10 classes, 3 shards" not in done.stdout
    assert "10 samples, 10 classes, 3 shards" in done.stdout
    assert kdcache("index", tmp_path / "part").stdout == done.stdout
    for wrong in (
        ("--fraction", "0.2"),
        ("--out", "x"),
        ("--stratified",),
        ("--fraction", "1", "--out", "x", "--check"),
    ):
        assert kdcache("index", whole, *wrong).returncode == 2
