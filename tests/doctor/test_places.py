"""Data, cache and folders: what is not there yet is well, what cannot be reached has a remedy."""

from pathlib import Path
from typing import Any

import pytest

from kdcache.doctor import places
from kdcache.doctor.child import Outcome
from kdcache.doctor.places import look_at_cache, look_at_data, look_at_folder
from support.shards import make_shards
from support.small_cache import open_entry

LIMIT = 60.0


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch):
    """Makes every trial of a name end in a given way, as no test can make a disk."""

    def put(**outcomes: Outcome) -> None:
        monkeypatch.setattr(places, "attempt", lambda trial, path, limit: outcomes[trial])

    return put


def folder(**changes: Any) -> Outcome:
    return Outcome({"place": "/mnt", "writable": True, "free": 2**40} | changes)


def test_shards_that_are_there_are_well(tmp_path: Path) -> None:
    finding = look_at_data(str(make_shards(tmp_path / "data", images=4, shards=2)), True, LIMIT)
    assert (finding.state, finding.says) == ("ok", f"2 shards at {tmp_path}/data")


def test_shards_that_nobody_named_need_not_be_there_yet(tmp_path: Path) -> None:
    asked, default = (look_at_data(str(tmp_path / "none"), asked, LIMIT) for asked in (True, False))
    assert (asked.state, default.state) == ("fault", "note")
    assert "does not exist" in asked.says
    assert "kdcache import folder" in (default.remedy or "")


def test_an_empty_default_folder_is_as_good_as_none_and_one_with_other_files_is_not(tmp_path: Path) -> None:
    assert look_at_data(str(tmp_path), False, LIMIT).state == "note"
    assert look_at_data(str(tmp_path), True, LIMIT).state == "fault"
    (tmp_path / "shard.tar.gz").touch()
    assert look_at_data(str(tmp_path), False, LIMIT).state == "fault"


def test_a_cache_is_there_or_can_be_made(tmp_path: Path) -> None:
    open_entry(tmp_path / "cache")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    there, room = look_at_cache(str(tmp_path / "cache"), LIMIT)
    assert there.state == "ok"
    assert "holds answers of" in there.says
    assert room.subject == "cache's disk"
    assert next(look_at_cache(str(tmp_path / "new"), LIMIT)).state == "ok"
    assert not (tmp_path / "new").exists()
    (foreign,) = look_at_cache(str(tmp_path / "foreign"), LIMIT)
    assert foreign.state == "fault"
    assert "thesis.txt" in foreign.says


@pytest.mark.parametrize(
    ("cache", "disk", "state", "said"),
    [
        (Outcome({"teachers": None, "foreign": []}), folder(writable=False), "fault", "/mnt cannot be written"),
        (Outcome({"teachers": ["a", "b"]}), folder(writable=False), "note", "holds answers of a, b, and cannot be"),
        (Outcome({"teachers": []}), folder(), "ok", "no teacher yet"),
        (Outcome(failure="it did not end within 9 seconds"), folder(), "fault", "did not end within 9 seconds."),
        (Outcome({"teachers": []}), Outcome(failure="it crashed (SIGBUS)"), "fault", "it crashed (SIGBUS)."),
    ],
)
def test_a_cache_that_cannot_be_used_as_it_should(
    answering, cache: Outcome, disk: Outcome, state: str, said: str
) -> None:
    answering(cache=cache, folder=disk)
    finding = next(look_at_cache("/mnt/cache", LIMIT))
    assert finding.state == state
    assert said in finding.says
    assert (finding.remedy is None) == (state == "ok")


def test_a_store_that_is_no_folder_has_no_disk(answering) -> None:
    answering(cache=Outcome({"teachers": None, "foreign": []}))
    (finding,) = look_at_cache("s3://bucket/cache", LIMIT)
    assert finding.state == "ok"


@pytest.mark.parametrize(
    ("disk", "states"),
    [
        (folder(), ["ok", "ok"]),
        (folder(free=places.ROOM - 1), ["ok", "note"]),
        (folder(writable=False), ["note"]),
        (Outcome(failure="it did not end within 9 seconds"), ["note"]),
    ],
)
def test_a_folder_should_be_writable_and_have_room(answering, disk: Outcome, states: list[str]) -> None:
    answering(folder=disk)
    findings = list(look_at_folder("runs", Path("/mnt"), "Use --out.", LIMIT))
    assert [finding.state for finding in findings] == states
    assert all((finding.remedy is None) == (finding.state == "ok") for finding in findings)
