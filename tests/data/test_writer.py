"""Shards that are written: always the same bytes, all of them or visibly not."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset

from kdcache.data.index import open_index
from kdcache.data.shards import INCOMPLETE, expand_data
from kdcache.data.writer import NewSample, write_shards
from kdcache.errors import DataError, KdcacheError, UsageError
from support.crashing import kills
from support.shards import make_samples

SAMPLES = [NewSample(*sample) for sample in make_samples(10, (8, 8))]
NAMES = [f"Größe {label}" for label in range(10)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_is_written_is_what_webdataset_reads(tmp_path: Path) -> None:
    assert write_shards(SAMPLES, tmp_path, samples_per_shard=4, class_names=NAMES) == 10
    shards = expand_data(tmp_path)
    assert [Path(shard).name for shard in shards] == [f"shard-{number:06d}.tar" for number in range(3)]
    read = webdataset.WebDataset(list(shards), shardshuffle=False, empty_check=False)
    assert [(s["__key__"], s["jpg"], int(s["cls"])) for s in read] == [(s.key, s.data, s.label) for s in SAMPLES]
    assert json.loads((tmp_path / "classes.json").read_text("utf-8")) == NAMES
    assert set(contents(tmp_path)) == {"classes.json", *(Path(shard).name for shard in shards)}


@pytest.mark.parametrize(("count", "shards"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_no_shard_is_empty(tmp_path: Path, count: int, shards: int) -> None:
    write_shards(SAMPLES[:count], tmp_path, samples_per_shard=4)
    assert len(expand_data(tmp_path)) == shards
    assert len(open_index(tmp_path)) == count


def test_equal_samples_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(SAMPLES, tmp_path / "a", samples_per_shard=4, class_names=NAMES)
    monkeypatch.setattr("time.time", lambda: 1.5e9)
    monkeypatch.setenv("USER", "somebody")
    write_shards(iter(SAMPLES), tmp_path / "b", samples_per_shard=4, class_names=NAMES)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    with tarfile.open(tmp_path / "a" / "shard-000000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.mode, member.uid, member.uname) == (0, 0o444, 0, "")


def test_long_and_foreign_keys_are_kept(tmp_path: Path) -> None:
    key = "Ordner/" + "ä" * 120 + "/" + "木" * 60
    write_shards([SAMPLES[0]._replace(key=key)], tmp_path, samples_per_shard=1)
    assert open_index(tmp_path).key(0) == key


def test_samples_may_have_no_label(tmp_path: Path) -> None:
    write_shards([SAMPLES[0]._replace(label=None)], tmp_path, samples_per_shard=1)
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        assert tar.getnames() == ["img-00000.jpg"]


@pytest.mark.parametrize(
    "sample", [SAMPLES[0]._replace(key="a.b"), SAMPLES[0]._replace(extension="JPG"), SAMPLES[0]._replace(key="a/")]
)
def test_a_key_that_webdataset_would_split_elsewhere_is_refused(tmp_path: Path, sample: NewSample) -> None:
    with pytest.raises(UsageError, match="first dot"):
        write_shards([sample], tmp_path, samples_per_shard=1)


def test_a_shard_holds_at_least_one_sample(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="from 1"):
        write_shards(SAMPLES, tmp_path / "out", samples_per_shard=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train-0.tar", "shard-000000.tar", "classes.json"])
def test_a_folder_that_holds_shards_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(DataError, match="Name an empty folder"):
        write_shards(SAMPLES, tmp_path, samples_per_shard=4, class_names=NAMES)
    assert contents(tmp_path) == {name: b"precious"}


def test_other_files_may_lie_there(tmp_path: Path) -> None:
    (tmp_path / "README").touch()
    write_shards(SAMPLES, tmp_path, samples_per_shard=4)
    assert len(open_index(tmp_path)) == 10


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(DataError, match=r"Cannot write shards to .*file.*: Not a directory\. Check the path"):
            write_shards(SAMPLES, out, samples_per_shard=4)


def failing() -> Iterator[NewSample]:
    yield from SAMPLES[:6]
    raise DataError("the seventh is broken")


def test_an_import_that_fails_is_no_data_set_and_can_be_run_again(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the seventh is broken"):
        write_shards(failing(), tmp_path, samples_per_shard=2, class_names=NAMES)
    assert list(tmp_path.glob("*.tar")) == []
    with pytest.raises(DataError, match="did not finish"):
        expand_data(tmp_path)
    write_shards(SAMPLES, tmp_path, samples_per_shard=7, class_names=NAMES)
    assert len(open_index(tmp_path)) == 10


def test_killed_at_any_step_an_import_does_not_look_whole(tmp_path: Path) -> None:
    write_shards(SAMPLES, tmp_path / "whole", samples_per_shard=4, class_names=NAMES)
    expected = contents(tmp_path / "whole")
    out = tmp_path / "killed"
    with pytest.raises(KdcacheError):
        expand_data(out)
    deaths = 0
    for step in kills(lambda: write_shards(SAMPLES, out, samples_per_shard=4, class_names=NAMES)):
        with pytest.raises(DataError):
            expand_data(out)
        with pytest.raises(DataError):
            expand_data(f"{out}/shard-{{000000..000002}}.tar")
        deaths += 1
        if step % 3 == 0:  # start from nothing, or from what was left
            for path in out.glob("*"):
                path.unlink()
    assert contents(out) == expected
    assert deaths >= 10


def test_a_marker_alone_does_not_stop_the_next_import(tmp_path: Path) -> None:
    (tmp_path / INCOMPLETE).touch()
    (tmp_path / "shard-000009.tar").write_bytes(b"left over")
    (tmp_path / "shard-000010.tar.partial").write_bytes(b"left over")
    write_shards(SAMPLES, tmp_path, samples_per_shard=4)
    assert set(contents(tmp_path)) == {f"shard-{number:06d}.tar" for number in range(3)}
