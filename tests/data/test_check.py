"""Checking every image: what is bad is found all at once, named, and left out if asked; the rest has a checksum."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from PIL import Image

from kdcache.data.check import Checked, check_index
from kdcache.data.columns import META
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.errors import BadSamplesError, DataError
from kdcache.inspection import check as job
from kdcache.render import trial
from kdcache.render.encoded import faults
from support.command_line import kdcache
from support.image_files import FORMATS
from support.images import png_that_dali_refuses
from support.indexing import Listener, builds
from support.shards import Sample, make_samples, write_set, write_tar

IMAGES = 300  # of which a shard holds more than a process takes at once
BAD = {7: "no header", 131: "stop before the end marker", 290: "checksum of a PNG chunk"}


def damaged(sample: Sample, number: int) -> Sample:
    """One that has no header, one whose data stop early, one that is damaged behind a sound header."""
    if number == 7:
        return sample._replace(data=b"<html>404</html>")
    if number == 131:
        return sample._replace(data=sample.data[: len(sample.data) // 2])
    buffer = io.BytesIO()
    Image.open(io.BytesIO(sample.data)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 1
    return sample._replace(data=bytes(data), ext="png")


def samples() -> list[Sample]:
    made = make_samples(IMAGES, (40, 48))
    return [damaged(sample, number) if number in BAD else sample for number, sample in enumerate(made)]


def check(data: Path, **options: Any) -> Checked:
    """As the command does, in this process."""
    return check_index(data, faults, workers=1, **options)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards, each with a bad image of another kind."""
    return write_set(tmp_path / "set", samples(), shards=3)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_set(tmp_path / "whole", make_samples(20, (8, 12)), shards=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_bad_samples_are_found_at_once_with_key_shard_offset_and_reason(shards: Path, workers: int) -> None:
    with pytest.raises(BadSamplesError, match=r"3 of 300 samples are bad; .* --drop-bad") as caught:
        check_index(shards, faults, workers=workers)
    assert caught.value.exit_code == 3
    for line, (number, reason) in zip(caught.value.samples, BAD.items(), strict=True):
        shard = shards / f"shard-{number // 100:06d}.tar"
        offset = shard.read_bytes().index(samples()[number].data)
        assert line.startswith(f"img-{number:05d} in {shard} at byte {offset}: ")
        assert reason in line


def test_the_job_finds_them_with_the_renderers_decoder(shards: Path) -> None:
    with pytest.raises(BadSamplesError, match="3 of 300"):
        job.check(str(shards))


def stray_marker(jpeg: bytes) -> bytes:
    """A marker that ends the scan: Pillow gives up, DALI shows what came before, and grey."""
    return jpeg[: len(jpeg) // 2] + b"\xff\x39" + jpeg[len(jpeg) // 2 + 2 :]


@pytest.fixture
def refused_by_one(tmp_path: Path) -> Path:
    """Sample 5 is refused by Pillow alone, 11 and 12 by DALI alone; the others are whole."""
    made = make_samples(24, (40, 48))
    changed = {5: ("jpg", stray_marker(FORMATS["jpeg"][0]))}
    changed |= {number: ("png", png_that_dali_refuses(30, 20)) for number in (11, 12)}
    for number, (ext, data) in changed.items():
        made[number] = made[number]._replace(ext=ext, data=data)
    return write_set(tmp_path / "odd", made, shards=2)


def test_what_one_decoder_refuses_is_found_and_the_decoder_named(refused_by_one: Path) -> None:
    listener = Listener()
    with pytest.raises(BadSamplesError, match="3 of 24") as caught:
        job.check(str(refused_by_one), progress=listener)
    said = {line.split()[0]: line.partition(": ")[2] for line in caught.value.samples}
    assert said["img-00005"].startswith("Pillow cannot decode its data (")
    for key in ("img-00011", "img-00012"):
        assert re.fullmatch(r"DALI cannot decode its data \(.+\), though Pillow can", said[key])
    assert len(said) == 3
    assert not listener.warnings


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_no_decoder_refuses_an_image_of_any_kind(kind: str) -> None:
    encoded = FORMATS[kind][0]
    assert list(trial.faults([encoded, png_that_dali_refuses(9, 9), encoded]))[::2] == [None, None]


def test_without_dali_the_check_says_once_that_only_pillow_is_asked(
    refused_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kdcache.render.dali", None)
    listener = Listener()
    with pytest.raises(BadSamplesError, match="1 of 24"):
        job.check(str(refused_by_one), progress=listener)
    (warning,) = listener.warnings
    assert warning.startswith("Only Pillow is tried, so images that only DALI refuses are not found: DALI cannot run")
    assert "add --renderer pillow" in warning


def test_pillow_alone_is_asked_where_it_renders(refused_by_one: Path) -> None:
    done = kdcache("index", refused_by_one, "--drop-bad", "--renderer", "pillow")
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("left out")] == ["img-00005"]
    assert "warning" not in done.stderr
    assert kdcache("index", refused_by_one, "--renderer", "pillow").returncode == 2


def test_the_many_processes_of_a_check_do_without_torch() -> None:
    program = """
import sys
import kdcache.data.check, kdcache_cli.__main__
from kdcache.render.trial import faults
print(*faults([b"", b"P6 1 1 255\\n\\0\\0\\0"]), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "it has no bytes None False\n", done.stderr


def test_what_decoders_print_themselves_is_not_shown(refused_by_one: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of worker processes: this one's standard error is not the check's alone."""
    said = []
    for workers in (1, 2):
        with pytest.raises(BadSamplesError, match="3 of 24"):
            check_index(refused_by_one, trial.faults, workers=workers)
        said.append(capfd.readouterr().err)
    assert "libpng" in said[0]
    assert not said[1]


def test_without_leave_to_drop_them_everything_stays_as_it_was(shards: Path) -> None:
    before = sorted(shards.iterdir())
    with pytest.raises(BadSamplesError):
        check(shards)
    assert [path for path in sorted(shards.iterdir()) if ".lock" not in path.name] == before


def test_dropped_samples_are_out_of_the_index_and_it_is_used_from_then_on(shards: Path, tmp_path: Path) -> None:
    checked = check(shards, drop_bad=True)
    assert [sample.key for sample in checked.bad] == [f"img-{number:05d}" for number in BAD]
    assert builds(shards) == 0
    index = open_index(shards)
    assert (len(index), index.left_out) == (IMAGES - 3, 3)
    good = [sample for number, sample in enumerate(samples()) if number not in BAD]
    assert index.fingerprint == open_index(write_set(tmp_path / "good", good, shards=1)).fingerprint
    assert {index.key(i) for i in range(len(index))} == {sample.key for sample in good}


def test_a_check_after_dropping_finds_them_left_out(shards: Path) -> None:
    dropped = check(shards, drop_bad=True)
    again = check(shards)
    assert [sample.key for sample in again.bad] == [sample.key for sample in dropped.bad]
    assert again.index.fingerprint == dropped.index.fingerprint
    assert open_index(shards).left_out == len(dropped.bad)


def test_each_image_has_the_checksum_of_its_bytes(shards: Path) -> None:
    index = check(shards, drop_bad=True).index
    content = {sample.key: sample.data for sample in samples()}
    assert index.crc is not None
    assert [google_crc32c.value(content[index.key(i)]) for i in range(len(index))] == index.crc.tolist()
    assert len(set(index.crc.tolist())) == len(index)


def test_whole_data_get_checksums_and_keep_their_fingerprint(whole: Path) -> None:
    before = open_index(whole)
    listener = Listener()
    checked = check(whole, progress=listener)
    assert checked.bad == ()
    assert checked.index.fingerprint == before.fingerprint
    assert checked.index.num_classes == before.num_classes
    assert (before.crc is None, checked.index.crc is None) == (True, False)
    assert not listener.warnings


def test_a_new_fingerprint_is_warned_of(whole: Path) -> None:
    before = check(whole).index.fingerprint
    write_tar(whole / "shard-000009.tar", make_samples(21, (8, 12))[20:])
    listener = Listener()
    check(whole, progress=listener)
    assert before[:12] in listener.warnings[0]
    assert "caches" in listener.warnings[0]


@pytest.mark.parametrize("data", [b"<html>404</html>", None])
def test_a_class_whose_images_are_all_bad_still_counts(tmp_path: Path, data: bytes | None) -> None:
    """Without a header, or with a sound one and not all of the data."""
    made = [
        sample._replace(data=data or sample.data[:-40]) if sample.label == 9 else sample
        for sample in make_samples(30, (8, 12))
    ]
    shards = write_set(tmp_path / "set", made, shards=2)
    (shards / "classes.json").unlink(missing_ok=True)
    checked = check(shards, drop_bad=True)
    assert len(checked.bad) == 3
    assert checked.index.label.max() == 8
    assert open_index(shards).num_classes == 10


def test_when_the_shards_change_the_check_must_be_repeated(whole: Path) -> None:
    check(whole)
    write_tar(whole / "shard-000009.tar", make_samples(21, (8, 12))[20:])
    listener = Listener()
    index = open_index(whole, progress=listener)
    assert index.crc is None
    assert len(listener.warnings) == 1
    assert "--check` again" in listener.warnings[0]
    assert open_index(whole, progress=(again := Listener())).crc is None
    assert not again.warnings


def test_unlabelled_samples_are_checked_too(tmp_path: Path) -> None:
    data = write_set(tmp_path, make_samples(4, (8, 12), labelled=False), shards=1)
    with pytest.raises(DataError, match="--unlabelled"):
        check(data)
    assert check(data, unlabelled=True).index.crc is not None
    assert open_index(data).crc is not None


def test_where_no_image_is_whole_nothing_is_made(tmp_path: Path) -> None:
    broken = [sample._replace(data=sample.data[:-40]) for sample in make_samples(2, (8, 12))]
    no_header = [sample._replace(data=b"") for sample in make_samples(4, (8, 12))[2:]]
    for number, bad in enumerate(([*broken, *no_header], no_header)):
        data = write_set(tmp_path / str(number), bad, shards=1)
        with pytest.raises(BadSamplesError, match=f"{len(bad)} of {len(bad)}"):
            check(data)
        with pytest.raises(DataError, match=rf"None of the {len(bad)} images.*img-0000"):
            check(data, drop_bad=True)
        assert not (data / "kdcache-index").exists()


def test_a_broken_header_is_an_error_that_names_the_check(shards: Path) -> None:
    with pytest.raises(DataError, match=rf"img-00007.*kdcache index {shards} --check"):
        open_index(shards)


def test_a_checked_image_whose_bytes_change_is_found_when_it_is_read(whole: Path) -> None:
    index = check(whole).index
    sample = 5
    shard = Path(index.shards[index.shard[sample]])
    stat = shard.stat()
    content = bytearray(shard.read_bytes())
    content[index.offset[sample] + index.length[sample] // 2] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with SampleReader(open_index(whole)) as reader:
        assert len(reader.read(np.array([4]))) == 1
        with pytest.raises(DataError, match="are not those that were checked") as caught:
            reader.read(np.array([4, sample]))
    assert index.describe(sample) in str(caught.value)


def test_an_index_without_its_checksums_is_built_again(whole: Path) -> None:
    index = check(whole).index
    (index.path / "crc.npy").unlink()
    assert builds(whole) == 1


def test_of_two_places_the_checked_one_is_opened(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, cached = whole / "kdcache-index", whole / "cache"
    monkeypatch.setattr("kdcache.data.index.index_places", lambda *asked: (beside, cached))
    monkeypatch.setattr("kdcache.data.check.index_places", lambda *asked: (cached, beside))
    open_index(whole)
    check(whole)
    assert (beside / META).exists()
    assert open_index(whole).path == cached


def test_the_command_lists_them_and_exits_with_3_until_they_are_dropped(shards: Path) -> None:
    found = kdcache("index", shards, "--check")
    assert found.returncode == 3, found.stderr
    assert [line.split()[0] for line in found.stdout.splitlines()] == [f"img-{number:05d}" for number in BAD]
    assert "error: 3 of 300 samples are bad" in found.stderr
    dropped = kdcache("index", shards, "--drop-bad")
    assert dropped.returncode == 0, dropped.stderr
    assert sum(line.startswith("left out img-") for line in dropped.stdout.splitlines()) == 3
    assert "297 samples, 10 classes, 3 shards\nimages checked, 3 bad ones left out\n" in dropped.stdout
    again = kdcache("index", shards)
    assert "images checked, 3 bad ones left out" in again.stdout


def test_what_is_advised_for_samples_without_labels_can_be_pasted(tmp_path: Path) -> None:
    made = [sample._replace(label=None) for sample in make_samples(6, (40, 48))]
    made[3] = made[3]._replace(data=b"<html>404</html>")
    data = write_set(tmp_path / "two words", made, shards=1)
    refused = kdcache("index", data, "--unlabelled")
    (check,) = (line for line in re.findall(r"`kdcache (.+?)`", refused.stderr) if "--check" in line)
    refused = kdcache(*shlex.split(check))
    advised = re.findall(r"`kdcache (.+?)`", refused.stderr)
    for option in ("--mark-bad", "--drop-bad"):  # where no index is, there is no cache to keep usable either
        (command,) = (line for line in advised if option in line)
        done = kdcache(*shlex.split(command))
        assert done.returncode == 0, done.stderr
        assert len(open_index(data)) == 5
