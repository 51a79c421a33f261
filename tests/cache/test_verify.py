"""A cache that is whole is said to be; any byte that is not what was written is found, and its block named."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdcache.cache.identity import seal
from kdcache.cache.metadata import cache_metadata, entry_metadata
from kdcache.cache.store import Cache
from kdcache.cache.verify import check_answers
from kdcache.cache.zarr_form import is_metadata
from kdcache.errors import CacheError, CorruptError
from kdcache.jobs.verify import VerifyReport, VerifyRequest, verify
from kdcache.targets.full import FullTargets
from kdcache.targets.topk import TopKTargets
from support.disks import Killed, WatchedDisk
from support.small_cache import FULL, TOPK, VIEW_SET, fill, kept, open_entry, tree
from support.targets_contract import answers

VIEWS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, one of each kind; the second has a view that is not complete."""
    path = tmp_path_factory.mktemp("made") / "cache"
    fill(open_entry(path, TOPK), VIEWS)
    other = open_entry(path, FULL, name="other")
    fill(other, VIEWS)
    other.write_block(VIEWS, 1, kept(FULL, VIEWS, 4, 8), {"renderer": "pillow"})
    return path


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "cache"))


def look(path: Path, repair: bool = False) -> VerifyReport:
    return verify(VerifyRequest(cache=str(path), repair=repair))


def test_a_whole_cache_is_whole(cache: Path) -> None:
    before = tree(cache)
    report = look(cache)
    assert report.whole
    assert report.findings == ()
    assert (report.teachers, report.blocks, report.answers) == (("other", "teacher"), 13, 4 * 11 + 4)
    assert report.lines() == [f"{cache} is whole: 13 blocks with 48 answers of other, teacher."]
    assert report.to_json()["whole"] is True
    assert tree(cache) == before


def test_one_flipped_byte_in_any_file_is_found(cache: Path) -> None:
    rng = random.Random(0)
    files = [path for path in sorted(cache.rglob("*")) if path.is_file()]
    assert {path.name for path in files} >= {"zarr.json", "0.json", "0"}
    for path in files:
        data = path.read_bytes()
        place = rng.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :])
        report = look(cache)
        assert not report.whole, f"byte {place} of {path}"
        parts = path.relative_to(cache).parts
        blocks = [(found.teacher, found.view, found.block) for found in report.findings if found.block is not None]
        if "records" in parts and path.name != "zarr.json":
            assert blocks == [(parts[1], int(parts[3]), int(path.stem))]
        elif parts[0] == "teachers" and "c" in parts and "order" not in parts:
            (teacher, view, block) = blocks[0]
            assert len(blocks) == 1
            assert (teacher, view) == (parts[1], int(parts[parts.index("c") + 1]))
            assert block in map(int, parts[parts.index("c") + 2 :])
        else:
            assert any(str(path) in found.problem for found in report.findings) or path.parts[-3] == "windows"
        path.write_bytes(data)
    assert look(cache).whole


def test_no_byte_of_metadata_is_idle(made: Path) -> None:
    rng = random.Random(1)
    cache = Cache.open(made)
    for key, expected in (cache_metadata(VIEW_SET) | entry_metadata(cache.entry("teacher"))).items():
        assert is_metadata((made / key).read_bytes(), expected)
        for place in range(0, len(expected), 3):
            flipped = expected[:place] + bytes([expected[place] ^ rng.randrange(1, 256)]) + expected[place + 1 :]
            assert not is_metadata(flipped, expected), f"{flipped!r}"


def test_metadata_that_another_zarr_orders_otherwise_is_the_same(made: Path) -> None:
    data = (made / "zarr.json").read_bytes()
    other = json.dumps(dict(reversed(json.loads(data).items())), indent=2).encode()
    assert other != data
    assert is_metadata(other, data)
    fuller = json.dumps({**json.loads(data), "consolidated_metadata": None}, indent=2).encode()
    assert is_metadata(fuller, data)
    for text in (b"", b"[]", b"null", b"[" * 100_000, data + b"\n"):
        assert not is_metadata(text, data)


@pytest.mark.parametrize("key", ["windows/c/0", "windows/zarr.json", "teachers/zarr.json", "teachers/other/zarr.json",
                                 "teachers/teacher/records/zarr.json", "teachers/teacher/records/1/2.json",
                                 "teachers/other/log_prob/zarr.json", "teachers/other/log_prob/c/0/1/0"])  # fmt: skip
def test_a_lost_file_is_found_unless_it_is_a_record(cache: Path, key: str) -> None:
    (cache / key).unlink()
    report = look(cache)
    if key.endswith("1/2.json"):  # without its record a block does not exist, and is not missed
        assert report.whole
        assert report.blocks == 12
    else:
        assert not report.whole
        assert any(str(Path(key).parent) in found.problem for found in report.findings)


def test_stopped_anywhere_before_the_first_record_a_cache_is_whole(tmp_path: Path) -> None:
    """What is missing then was never written, and the next dump completes it."""
    whole = WatchedDisk()
    open_entry(tmp_path / "whole", disk=whole)
    looked = 0
    for operation in range(len(whole.operations)):
        path = tmp_path / str(operation)
        with pytest.raises(Killed):
            open_entry(path, disk=WatchedDisk(operation))
        if Cache.exists(path):
            looked += 1
            assert look(path).findings == (), f"stopped before {whole.operations[operation]}"
    assert looked
    meta = tmp_path / "whole/teachers/teacher/tail/zarr.json"
    meta.write_bytes(meta.read_bytes()[:-1])
    assert not look(tmp_path / "whole").whole, "what is there has to be what was written"


def test_bad_blocks_are_dropped_and_made_again(cache: Path) -> None:
    before = tree(cache)
    for key in ("teachers/teacher/level/c/1/2", "teachers/teacher/records/0/1.json", "teachers/other/log_prob/c/0/0/0"):
        data = (cache / key).read_bytes()
        (cache / key).write_bytes(data[:-3] + b"x" + data[-2:])
    report = look(cache, repair=True)
    assert not report.whole, "what is gone has to be made again"
    assert report.repaired == 3
    assert report.blocks == 13
    assert "3 bad blocks were dropped" in report.lines()[-1]
    again = look(cache)
    assert again.whole
    assert again.blocks == 10
    fill(open_entry(cache), VIEWS)
    fill(open_entry(cache, FULL, name="other"), VIEWS)
    assert tree(cache) == before


def test_without_repair_nothing_is_changed(cache: Path) -> None:
    (cache / "teachers/teacher/records/0/1.json").write_bytes(b"{}")
    before = tree(cache)
    assert not look(cache).whole
    assert tree(cache) == before


def test_many_problems_are_counted_and_the_first_named(cache: Path) -> None:
    for path in cache.glob("teachers/*/records/*/*.json"):
        path.write_bytes(b"")
    for path in cache.glob("teachers/teacher/*/zarr.json"):
        path.unlink()
    lines = look(cache).lines()
    assert "NOT whole" in lines[-1]
    assert len(look(cache).to_json()["findings"]) == len(look(cache).findings) > 13


def test_what_cannot_be_read_is_no_damage(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else --repair would drop sound blocks on a bad day of the network."""
    read = Path.read_bytes

    def fail(self: Path) -> bytes:
        if self.parts[-4] == "level":
            raise OSError(5, "Input/output error")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(CacheError, match="Input/output error"):
        look(cache, repair=True)


def test_no_cache_is_an_error_and_no_finding(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="There is no cache"):
        look(tmp_path)


def test_a_teacher_under_anothers_name_is_found(cache: Path) -> None:
    (cache / "teachers/other").rename(cache / "teachers/third")
    assert [found.teacher for found in look(cache).findings] == ["third"]


def test_a_view_set_that_was_swapped_is_found(cache: Path) -> None:
    meta = json.loads((cache / "zarr.json").read_text())
    meta["attributes"]["kdcache"] = seal(replace(VIEW_SET, windows="0" * 64).to_json())
    (cache / "zarr.json").write_text(json.dumps(meta, indent=2))
    assert any("windows" in found.problem for found in look(cache).findings)


def test_answers_have_to_be_distributions() -> None:
    sound = TOPK.keep(answers(5, 12), torch.full((5, 2), -1))
    assert isinstance(sound, TopKTargets)
    check_answers(sound)
    with pytest.raises(CorruptError, match="twice"):
        check_answers(replace(sound, class_id=torch.zeros_like(sound.class_id)))
    for part in (replace(sound, tail=sound.tail + 0.1), replace(sound, prob=-sound.prob),
                 replace(sound, tail=sound.tail * torch.nan)):  # fmt: skip
        with pytest.raises(CorruptError, match="sum to 1"):
            check_answers(part)
    full = FullTargets(answers(5, 12), None)
    check_answers(full)
    with pytest.raises(CorruptError, match="sum to 1"):
        check_answers(FullTargets(full.log_prob + 0.1, None))
