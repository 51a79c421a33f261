"""Samples that are marked as lost: the data keep their fingerprint and every sample its place."""

import io
import os
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdcache.data.check import Checked, check_index
from kdcache.data.columns import META
from kdcache.data.index import Index, open_index
from kdcache.data.part import write_part
from kdcache.data.reader import SampleReader
from kdcache.errors import BadSamplesError, DataError, UsageError
from kdcache.render.encoded import faults
from support.command_line import kdcache
from support.indexing import Listener, builds
from support.shards import Sample, make_samples, write_set, write_tar

COUNT = 24
ROT, HEADLESS, GONE = 3, 11, 17
"""Numbers of the samples that are damaged later: in the body, in the header, and not there any more."""


def samples() -> list[Sample]:
    return make_samples(COUNT, (16, 20), varied=True)


def damaged(*numbers: int, gone: int | None = None) -> list[Sample]:
    """The samples, some of them damaged behind a sound header."""
    made = samples()
    for number in numbers:
        made[number] = made[number]._replace(data=made[number].data[:-60])
    return [sample for number, sample in enumerate(made) if number != gone]


def check(data: Path, **options: Any) -> Checked:
    return check_index(data, faults, workers=1, **options)


def keys(index: Index, rows: np.ndarray) -> list[str]:
    return sorted(index.key(row) for row in rows.tolist())


def key(number: int) -> str:
    return f"img-{number:05d}"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of whole samples, without an index."""
    return write_set(tmp_path / "set", samples(), shards=2)


def rot(shards: Path) -> None:
    """One image is damaged, of another the header, and a third is lost with its label."""
    made = damaged(ROT)
    made[HEADLESS] = made[HEADLESS]._replace(data=b"\0" * 100)
    del made[GONE]
    write_set(shards, made, shards=2)


def test_bad_samples_keep_their_places_and_the_data_their_fingerprint(shards: Path) -> None:
    before = open_index(shards)
    columns = {name: getattr(before, name).copy() for name in ("key_hash", "label", "length", "height", "width")}
    rot(shards)
    found = check(shards, mark_bad=True)
    index = found.index
    assert index.fingerprint == before.fingerprint
    assert keys(index, index.lost) == [key(number) for number in (ROT, HEADLESS, GONE)]
    assert sorted(sample.key for sample in found.lost) == keys(index, index.lost)
    assert (found.bad, index.left_out, index.num_classes) == ((), 0, 10)
    for name, column in columns.items():
        np.testing.assert_array_equal(getattr(index, name), column)
    again = open_index(shards)
    assert builds(shards) == 0
    assert np.array_equal(again.lost, index.lost)


def test_a_lost_image_is_never_read(shards: Path) -> None:
    open_index(shards)
    rot(shards)
    index = check(shards, mark_bad=True).index
    whole = {sample.key: sample.data for sample in samples()}
    with SampleReader(index) as reader:
        read = reader.read(np.arange(COUNT)[::-1])
    lost = set(index.lost.tolist())
    for row, data in zip(range(COUNT)[::-1], read, strict=True):
        if row in lost:
            with Image.open(io.BytesIO(data)) as image:
                assert (image.size, image.getextrema()) == ((index.width[row], index.height[row]), (128, 128))
        else:
            assert data == whole[index.key(row)]


def test_without_a_former_index_what_has_a_header_keeps_its_place(tmp_path: Path) -> None:
    """As where the index was made on another machine: it had every sample with a sound header."""
    data = write_set(tmp_path / "set", damaged(ROT), shards=2)
    before = open_index(data)
    for file in before.path.iterdir():
        file.unlink()
    before.path.rmdir()
    found = check(data, mark_bad=True)
    assert found.index.fingerprint == before.fingerprint
    assert keys(found.index, found.index.lost) == [key(ROT)]


def test_what_a_check_had_left_out_stays_out(shards: Path) -> None:
    write_set(shards, damaged(5, 6), shards=2)
    dropped = check(shards, drop_bad=True).index
    assert (len(dropped), dropped.left_out) == (COUNT - 2, 2)
    made = damaged(ROT, 6)  # and sample 5 is repaired
    write_set(shards, made, shards=2)
    listener = Listener()
    found = check(shards, mark_bad=True, progress=listener)
    assert found.index.fingerprint == dropped.fingerprint
    (warning,) = listener.warnings
    assert warning.startswith("1 of the samples that a check left out before can be decoded now. They stay out")
    assert keys(found.index, found.index.lost) == [key(ROT)]
    assert [sample.key for sample in found.bad] == [key(6)]
    assert found.index.left_out == 2


def test_a_shard_that_is_added_comes_in(shards: Path) -> None:
    write_set(shards, damaged(5), shards=2)
    check(shards, drop_bad=True)
    write_tar(shards / "more.tar", [sample._replace(key=f"more-{sample.key}") for sample in samples()])
    index = check(shards, mark_bad=True).index
    assert (len(index), len(index.lost), index.left_out) == (2 * COUNT - 1, 0, 1)


def test_whoever_has_left_samples_out_is_told_before_and_after_and_can_go_back(shards: Path) -> None:
    write_set(shards, damaged(ROT), shards=2)
    before = open_index(shards)

    class Recorder(Listener):
        def task(self, title: str, *args: Any, **kwargs: Any) -> Any:
            self.lines.append(title)
            return super().task(title, *args, **kwargs)

    listener = Recorder()
    dropped = check(shards, drop_bad=True, progress=listener).index
    assert dropped.fingerprint != before.fingerprint
    first, last = listener.warnings
    assert f"`kdcache index {shards} --mark-bad` keeps such caches usable" in first
    assert listener.lines.index(first) < listener.lines.index("indexing") < listener.lines.index(last)
    place, command = re.search(r"remove the index \((.+?)\), then run `kdcache (.+?)`", last).groups()
    for file in Path(place).iterdir():
        file.unlink()
    os.rmdir(place)
    assert shlex.split(command) == ["index", str(shards), "--mark-bad"]
    check(shards, mark_bad=True)
    assert open_index(shards).fingerprint == before.fingerprint


def test_a_check_of_lost_samples_goes_on_to_keep_their_places(shards: Path) -> None:
    open_index(shards)
    write_set(shards, damaged(ROT), shards=2)
    marked = check(shards, mark_bad=True).index
    again = check(shards).index
    assert (again.fingerprint, again.lost.tolist()) == (marked.fingerprint, marked.lost.tolist())
    write_set(shards, damaged(ROT, 9), shards=2)
    with pytest.raises(BadSamplesError, match="2 of 24 samples are bad"):
        check(shards)


def test_a_repaired_sample_is_lost_no_longer(shards: Path) -> None:
    before = open_index(shards)
    write_set(shards, damaged(ROT), shards=2)
    check(shards, mark_bad=True)
    write_set(shards, samples(), shards=2)
    index = check(shards, mark_bad=True).index
    assert (index.fingerprint, len(index.lost)) == (before.fingerprint, 0)
    assert '"format": 1' in (index.path / META).read_text()


def test_shards_that_change_do_not_lose_the_marks(shards: Path) -> None:
    open_index(shards)
    rot(shards)
    marked = check(shards, mark_bad=True).index
    os.utime(shards / "shard-000001.tar", ns=(1, 1))
    with pytest.raises(DataError, match="have been marked as lost, and the shards have changed since") as caught:
        open_index(shards)
    (command,) = re.findall(r"`kdcache (.+?)`", str(caught.value))
    assert shlex.split(command) == ["index", str(shards), "--mark-bad"]
    check(shards, mark_bad=True)
    assert open_index(shards).fingerprint == marked.fingerprint


def test_other_data_are_not_taken_for_the_same_with_losses(shards: Path) -> None:
    open_index(shards)
    (shards / "shard-000001.tar").unlink()
    with pytest.raises(DataError, match=r"12 of the 24 samples .* are in no shard any more, such as img-000"):
        check(shards, mark_bad=True)


def test_a_part_of_data_with_losses_has_the_samples_that_it_had(shards: Path, tmp_path: Path) -> None:
    before = write_part(open_index(shards), 0.75, tmp_path / "part")
    lost = before.key(4)
    number = int(lost.removeprefix("img-"))
    write_set(shards, damaged(number), shards=2)
    after = write_part(check(shards, mark_bad=True).index, 0.75, tmp_path / "part")
    assert after.fingerprint == before.fingerprint
    assert keys(after, after.lost) == [lost]
    assert open_index(tmp_path / "part").lost.tolist() == [4]
    with pytest.raises(UsageError, match=rf"`kdcache index {shards} --mark-bad`\), then take the part again"):
        check(tmp_path / "part", mark_bad=True)


def test_both_ways_at_once_make_no_sense(shards: Path) -> None:
    with pytest.raises(UsageError, match="give one of them"):
        check(shards, drop_bad=True, mark_bad=True)


@pytest.mark.parametrize("damage", ["cut", "remove", "beyond"])
def test_marks_that_are_damaged_are_no_marks(shards: Path, damage: str) -> None:
    open_index(shards)
    write_set(shards, damaged(ROT), shards=2)
    marks = check(shards, mark_bad=True).index.path / "lost.npy"
    if damage == "remove":
        marks.unlink()
    elif damage == "cut":
        os.truncate(marks, marks.stat().st_size - 1)
    else:
        np.save(marks, np.array([COUNT], np.int64))
    with pytest.raises(DataError, match="marked as lost"):
        open_index(shards)


def test_the_command_names_what_is_lost(shards: Path) -> None:
    open_index(shards)
    rot(shards)
    done = kdcache("index", shards, "--mark-bad", "--renderer", "pillow")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("lost ")] == [key(ROT), key(HEADLESS), key(GONE)]
    assert any(line.endswith("it is in no shard any more") for line in lines)
    assert "images checked, 0 bad ones left out, 3 marked as lost" in lines
    with tarfile.open(shards / "shard-000000.tar") as tar:
        assert f"{key(ROT)}.jpg" in tar.getnames()
