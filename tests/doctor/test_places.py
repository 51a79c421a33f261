"""Data, cache and folders: what is not there yet is well, what cannot be reached has a remedy."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import PermissionDeniedError

from kdcache.cache.objects import ObjectFiles
from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.data.part import write_part
from kdcache.doctor import places
from kdcache.doctor.child import Outcome, attempt
from kdcache.doctor.findings import Finding
from kdcache.doctor.places import look_at_account, look_at_cache, look_at_data, look_at_folder, look_at_weights
from kdcache.doctor.trials import outcome_of
from support.s3 import s3, s3_server  # noqa: F401
from support.shards import make_shards
from support.small_cache import VIEW_SET, WINDOWS, open_entry

LIMIT = 60.0


@pytest.fixture
def trials_return(monkeypatch: pytest.MonkeyPatch):
    """Makes every trial of a name end in a given way, as no test can make a disk."""

    def put(**outcomes: Outcome) -> None:
        monkeypatch.setattr(places, "attempt", lambda trial, *arguments, limit: outcomes[trial])

    return put


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes trials without a process of their own, where a test has put something in the place of a library."""
    monkeypatch.setattr(places, "attempt", lambda trial, *arguments, limit: Outcome(**outcome_of(trial, *arguments)))


def folder(**changes: Any) -> Outcome:
    return Outcome({"place": "/mnt", "free": 2**40, "errno": None, "cause": None} | changes)


def refusing(number: int, **changes: Any) -> Outcome:
    return folder(errno=number, cause=os.strerror(number), **changes)


TIMEOUT = Outcome(failure="it did not end within 9 seconds", ending="timeout")


def test_shards_that_are_there_are_well(tmp_path: Path) -> None:
    data = make_shards(tmp_path / "data", images=4, shards=2)
    shards, index = look_at_data(str(data), True, LIMIT)
    assert (shards.state, shards.text) == ("ok", f"2 shards at {data}")
    assert (index.state, index.text) == ("ok", f"none yet; it will be stored at {data}/kdcache-index")
    open_index(data)
    _, index = look_at_data(str(data), True, LIMIT)
    assert (index.state, index.text) == ("ok", f"at {data}/kdcache-index")


def test_a_part_of_a_data_set_is_well(tmp_path: Path) -> None:
    whole = open_index(make_shards(tmp_path / "data", images=40, classes=2))
    write_part(whole, 0.5, tmp_path / "half")
    shards, index = look_at_data(str(tmp_path / "half"), True, LIMIT)
    assert (shards.state, index.state) == ("ok", "ok")
    assert str(tmp_path / "half") in index.text


def test_shards_that_nobody_named_need_not_be_there_yet(tmp_path: Path) -> None:
    (asked,), (default,) = (list(look_at_data(str(tmp_path / "none"), asked, LIMIT)) for asked in (True, False))
    assert (asked.state, default.state) == ("fault", "note")
    assert "kdcache import folder" in (default.remedy or "")


def test_an_error_of_kdcaches_is_quoted_with_its_own_remedy_and_no_other(tmp_path: Path) -> None:
    (missing,) = look_at_data(str(tmp_path / "none"), True, LIMIT)
    assert missing.text == (
        f"{tmp_path}/none does not exist. Name a folder of .tar files or a brace pattern of them, or make shards from "
        "a folder of images with `kdcache import folder`."
    )
    assert missing.remedy is None


def test_an_empty_default_folder_is_as_good_as_none_and_one_with_other_files_is_not(tmp_path: Path) -> None:
    assert states(look_at_data(str(tmp_path), False, LIMIT)) == ["note"]
    assert states(look_at_data(str(tmp_path), True, LIMIT)) == ["fault"]
    (tmp_path / "shard.tar.gz").touch()
    assert states(look_at_data(str(tmp_path), False, LIMIT)) == ["fault"]


def states(findings: Iterable[Finding]) -> list[str]:
    return [finding.state for finding in findings]


@pytest.mark.parametrize(
    ("outcome", "remedy"),
    [
        (TIMEOUT, "larger --limit"),
        (Outcome(failure="it was killed (SIGKILL)", ending="kill"), "Memory"),
        (Outcome(failure="Input/output error", errno=errno.EIO), "network mount fails"),
        (Outcome(failure="it crashed (SIGBUS)", ending="crash"), "Check the path"),
    ],
)
def test_how_a_trial_ended_says_what_to_do(trials_return, outcome: Outcome, remedy: str) -> None:
    trials_return(data=outcome)
    (finding,) = look_at_data("/mnt/data", True, LIMIT)
    assert finding.state == "fault"
    assert finding.text == f"/mnt/data cannot be read: {outcome.failure}."
    assert remedy in (finding.remedy or "")


def test_an_index_goes_to_the_first_place_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_shards(tmp_path / "data", images=4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cached"))
    real = places.attempt

    def read_only(trial: str, path: str, limit: float) -> Outcome:
        if trial == "folder" and not path.startswith(writable):
            return refusing(errno.EROFS)
        return real(trial, path, limit=limit)

    monkeypatch.setattr(places, "attempt", read_only)
    writable = str(tmp_path / "cached")
    _, index = look_at_data(str(data), True, LIMIT)
    assert index.state == "ok"
    assert f"it will be stored at {tmp_path}/cached/kdcache/" in index.text
    writable = "/nowhere"
    _, index = look_at_data(str(data), True, LIMIT)
    assert index.state == "fault"
    assert f"neither to {data} (Read-only file system) nor to {tmp_path}/cached" in index.text
    assert "XDG_CACHE_HOME" in (index.remedy or "")


def test_a_cache_is_looked_at_by_another_process(tmp_path: Path) -> None:
    open_entry(tmp_path / "cache")
    there, room = look_at_cache(str(tmp_path / "cache"), LIMIT)
    assert (there.state, room.subject) == ("ok", "cache's disk")


def test_a_cache_is_there_or_can_be_made(tmp_path: Path, in_this_process: None) -> None:
    open_entry(tmp_path / "cache")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    (tmp_path / "begun" / "windows").mkdir(parents=True)
    there, room = look_at_cache(str(tmp_path / "cache"), LIMIT)
    assert there.state == "ok"
    assert "holds targets of" in there.text
    assert room.subject == "cache's disk"
    assert next(look_at_cache(f"file://{tmp_path}/cache", LIMIT)) == there
    assert next(look_at_cache(str(tmp_path / "new"), LIMIT)).state == "ok"
    assert next(look_at_cache(str(tmp_path / "begun"), LIMIT)).state == "ok"
    assert not (tmp_path / "new").exists()
    (foreign,) = look_at_cache(str(tmp_path / "foreign"), LIMIT)
    assert foreign.state == "fault"
    assert "thesis.txt" in foreign.text


NONE = Outcome({"teachers": None, "foreign": []})


@pytest.mark.parametrize(
    ("cache", "disk", "state", "text", "remedy"),
    [
        (NONE, refusing(errno.EACCES), "fault", "the system reports 'Permission denied' for /mnt", "who owns it"),
        (NONE, refusing(errno.ENOSPC), "fault", "No space left", "Free some space"),
        (NONE, refusing(errno.EROFS), "fault", "Read-only", "Give a place that can be written."),
        (Outcome({"teachers": ["a", "b"]}), refusing(errno.EROFS), "note", "of a, b, and cannot be", "--user"),
        (Outcome({"teachers": []}), folder(), "ok", "no teacher yet", ""),
        (TIMEOUT, folder(), "fault", "did not end within 9 seconds.", "--limit"),
        (Outcome({"teachers": []}), Outcome(failure="it crashed (SIGBUS)"), "fault", "it crashed (SIGBUS).", "mount"),
    ],
)
def test_a_cache_that_cannot_be_used_as_it_should(
    trials_return, cache: Outcome, disk: Outcome, state: str, text: str, remedy: str
) -> None:
    trials_return(cache=cache, folder=disk)
    finding = next(look_at_cache("/mnt/cache", LIMIT))
    assert finding.state == state
    assert text in finding.text
    assert remedy in (finding.remedy or "")
    assert (finding.remedy is None) == (state == "ok")


def test_a_bucket_is_written_to_and_left_as_it_was(s3: str, in_this_process: None) -> None:  # noqa: F811
    (finding,) = look_at_cache(f"{s3}/cache", LIMIT)
    assert (finding.state, finding.text) == ("ok", f"none yet; it can be created at {s3}/cache")
    assert not ObjectFiles(s3).names("")


def test_a_bucket_that_is_not_there_is_a_fault(s3: str, in_this_process: None) -> None:  # noqa: F811
    (finding,) = look_at_cache(f"{s3}-gone/cache", LIMIT)
    assert finding.state == "fault"
    assert f"Cannot read {s3}-gone/cache" in finding.text
    assert "404 Not Found" in finding.text
    assert "mount" not in f"{finding.text} {finding.remedy}"


def test_a_bucket_that_cannot_be_written_serves_students_alone(
    s3: str,  # noqa: F811
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(*arguments: object, **options: object) -> None:
        raise PermissionDeniedError("Server returned non-2xx status code: 403 Forbidden: Access Denied")

    Cache.create(f"{s3}/held", VIEW_SET, WINDOWS)
    monkeypatch.setattr(obstore, "put", denied)
    (none,), (held,) = (list(look_at_cache(cache, LIMIT)) for cache in (f"{s3}/cache", f"{s3}/held"))
    assert (none.state, held.state) == ("fault", "note")
    assert "403 Forbidden" in none.text
    assert "403 Forbidden" in held.text
    assert "students can learn from it" in held.text


@pytest.mark.parametrize(
    ("disk", "needed", "expected"),
    [
        (folder(), True, ["ok", "ok"]),
        (folder(free=places.ROOM - 1), True, ["ok", "note"]),
        (folder(free=places.SCARCE - 1), True, ["ok", "fault"]),
        (folder(free=places.SCARCE - 1), False, ["ok", "note"]),
        (refusing(errno.EACCES), True, ["fault"]),
        (refusing(errno.EACCES), False, ["note"]),
        (TIMEOUT, True, ["fault"]),
        (TIMEOUT, False, ["note"]),
    ],
)
def test_a_folder_has_to_be_writable_and_have_room(
    trials_return, disk: Outcome, needed: bool, expected: list[str]
) -> None:
    trials_return(folder=disk)
    findings = list(look_at_folder("runs", "/mnt", "--out names another.", LIMIT, needed))
    assert states(findings) == expected
    assert all((finding.remedy is None) == (finding.state == "ok") for finding in findings)


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    (finding,) = look_at_folder("runs", str(tmp_path / "runs" / "first"), "--out names another.", LIMIT)
    assert finding.state == "fault"
    assert f"the system reports 'Not a directory' for {tmp_path}/runs" in finding.text
    assert finding.remedy == "Check the path: a part of it is a file. --out names another."


@pytest.mark.parametrize(
    ("held", "offline", "disk", "state"),
    [
        (False, False, folder(), "ok"),
        (False, False, refusing(errno.EACCES), "fault"),
        (True, False, refusing(errno.EACCES), "note"),
        (True, True, refusing(errno.EACCES), "ok"),
        (False, True, refusing(errno.EACCES), "note"),
    ],
)
def test_weights_are_there_or_can_be_fetched(
    trials_return, held: bool, offline: bool, disk: Outcome, state: str
) -> None:
    trials_return(weights=Outcome({"path": "/hub/hub", "held": held, "offline": offline}), folder=disk)
    assert next(look_at_weights(LIMIT)).state == state


def test_weights_of_the_hub_are_known_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    snapshot = tmp_path / "hub" / "models--timm--vit" / "snapshots" / "0abc"
    snapshot.mkdir(parents=True)
    assert attempt("weights", limit=LIMIT).values["held"] is False
    (snapshot / "model.safetensors").touch()
    assert attempt("weights", limit=LIMIT).values["held"] is True


CACHED = Outcome({"name": "uid7", "cached": "/srv/.cache"})


@pytest.mark.parametrize(
    ("lack", "tried", "disk", "state", "text"),
    [
        (None, CACHED, folder(), "ok", "uid7; cached files go to /srv/.cache"),
        ("User 7 has no home folder: a. Set HOME.", CACHED, folder(), "note", "User 7 has no home folder: a."),
        (None, CACHED, refusing(errno.EROFS), "note", "/srv/.cache cannot be written"),
        (None, CACHED, TIMEOUT, "note", "/srv/.cache, for cached files, cannot be reached"),
        (None, Outcome(failure="KeyError: getpwuid()"), folder(), "fault", "cannot import timm: KeyError: getpwuid()."),
    ],
)
def test_the_account_is_judged_by_what_libraries_ask_of_it(
    trials_return, lack: str | None, tried: Outcome, disk: Outcome, state: str, text: str
) -> None:
    trials_return(account=tried, folder=disk)
    (finding,) = look_at_account(lack, LIMIT)
    assert (finding.state, text in finding.text) == (state, True)
    assert (finding.remedy is None) == (state == "ok")
    assert state != "fault" or "--env USER=kdcache" in (finding.remedy or "")
