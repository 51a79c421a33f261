"""Claims: one process at a time, given back, and taken over from the dead."""

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kdcache.cache import claims as claims_module
from kdcache.cache.claims import BeatingClaims, Claims, LockedClaims, open_claims
from kdcache.cache.durable import PARTIAL, LocalFiles
from kdcache.errors import CacheError

HEARTBEAT_INTERVAL, LEASE_TIMEOUT = 0.02, 0.3


@pytest.fixture(params=["locked", "beating"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def claims_of(kind: str, path: Path) -> Claims:
    files = LocalFiles(path)
    return LockedClaims(files) if kind == "locked" else BeatingClaims(files, HEARTBEAT_INTERVAL, LEASE_TIMEOUT)


@pytest.fixture
def pair(kind: str, tmp_path: Path) -> Iterator[tuple[Claims, Claims]]:
    with claims_of(kind, tmp_path) as one, claims_of(kind, tmp_path) as two:
        yield one, two


def test_one_at_a_time(pair: tuple[Claims, Claims]) -> None:
    one, two = pair
    assert one.take("a-0-1")
    assert not two.take("a-0-1")
    assert not one.take("a-0-1")
    assert two.take("a-0-2")
    one.release("a-0-1")
    assert two.take("a-0-1")
    one.release("a-0-1")
    assert not one.take("a-0-1")


def test_a_look_for_left_overs_is_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It locks whatever file it looks at, for a moment."""
    tried: list[int] = []
    lock = fcntl.flock

    def busy_once(file: int, how: int) -> None:
        tried.append(file)
        if len(tried) == 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        lock(file, how)

    with claims_of("locked", tmp_path) as claims:
        monkeypatch.setattr(claims_module.fcntl, "flock", busy_once)
        assert claims.take("a")
        assert len(tried) == 2


def test_closing_gives_everything_back_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    with claims_of(kind, tmp_path) as held:
        assert held.take("a")
        assert held.take("b")
        assert (tmp_path / PARTIAL).is_dir()
    LocalFiles(tmp_path).tidy()
    assert list(tmp_path.iterdir()) == []
    with claims_of(kind, tmp_path) as other:
        assert other.take("a")


def test_a_claim_outlasts_its_patience_while_its_process_lives(pair: tuple[Claims, Claims]) -> None:
    one, two = pair
    assert one.take("a")
    end = time.monotonic() + 2 * LEASE_TIMEOUT
    while time.monotonic() < end:
        assert not two.take("a")
        time.sleep(HEARTBEAT_INTERVAL)


def hold(kind: str, path: Path, told: Connection) -> None:
    told.send(claims_of(kind, path).take("a"))
    time.sleep(60)


def test_a_dead_processes_claim_is_taken_over(kind: str, tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(kind, tmp_path, theirs))
    process.start()
    assert ours.recv()
    with claims_of(kind, tmp_path) as other:
        assert not other.take("a")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        deadline = time.monotonic() + 20
        while not other.take("a"):
            assert time.monotonic() < deadline
            time.sleep(HEARTBEAT_INTERVAL)
        with claims_of(kind, tmp_path) as third:
            assert not third.take("a")


def test_it_is_known_who_holds_a_claim(pair: tuple[Claims, Claims], kind: str) -> None:
    one, two = pair
    assert one.take("a")
    assert not two.take("a")
    holder = two.holder("a")
    assert holder is not None
    assert holder.who == f"process {os.getpid()} on {socket.gethostname()}"
    assert (holder.lease_timeout is None) == (kind == "locked")
    assert holder.describe().startswith(f"{holder.who} holds the claim on it.")
    assert two.holder("b") is None


def test_what_a_claim_says_of_its_owner_can_be_anything(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    with BeatingClaims(files, HEARTBEAT_INTERVAL, LEASE_TIMEOUT) as claims:
        for content in (b"", b"x", b"token 3 \xff\x1b[31m" + b"y" * 1000):
            files.put(f"{PARTIAL}/claim-a", content)
            assert not claims.take("a")
            holder = claims.holder("a")
            assert holder is None or (holder.who.isprintable() and len(holder.who) <= 100)
        assert holder is not None
        assert r"\x1b[31myyy" in holder.who


def test_a_claim_of_one_who_died_long_ago_is_not_waited_for(tmp_path: Path) -> None:
    """Its age is read off the clock of the place, whatever this machine's says."""
    files = LocalFiles(tmp_path)
    files.put(f"{PARTIAL}/claim-old", b"token 0 somebody")
    files.put(f"{PARTIAL}/claim-young", b"token 0 somebody")
    then = time.time() - 1000
    os.utime(tmp_path / PARTIAL / "claim-old", (then, then))
    with BeatingClaims(files) as claims:
        assert claims.take("old")
        assert not claims.take("young")
        holder = claims.holder("young")
        assert holder is not None
        assert holder.silent is not None
        assert holder.silent < 100
    assert files.names(PARTIAL) == ["claim-young"]


def test_a_claim_that_was_taken_over_is_left_to_its_new_owner(tmp_path: Path) -> None:
    """Its owner slept so long that it seemed dead."""
    slept = BeatingClaims(LocalFiles(tmp_path), heartbeat_interval=60.0)
    with BeatingClaims(LocalFiles(tmp_path), HEARTBEAT_INTERVAL, lease_timeout=0.05) as other:
        assert slept.take("a")
        while not other.take("a"):
            time.sleep(0.02)
        slept.release("a")
        slept.close()
        assert not slept.take("a")


def test_folders_have_locked_claims_where_they_have_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = LocalFiles(tmp_path / "new" / "cache")
    with open_claims(files) as claims:
        assert isinstance(claims, LockedClaims)

    def no_locks(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with open_claims(files) as claims:
        assert isinstance(claims, BeatingClaims)
        assert claims.take("a")


def test_a_lock_on_a_file_that_was_tidied_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking somebody removes the file: the next one to come would make another."""
    flock, stolen = fcntl.flock, []

    def slow(file: int, operation: int) -> None:
        if not stolen:
            stolen.append(file)
            (tmp_path / PARTIAL / "claim-a").unlink()
        flock(file, operation)

    monkeypatch.setattr(claims_module.fcntl, "flock", slow)
    with LockedClaims(LocalFiles(tmp_path)) as one, LockedClaims(LocalFiles(tmp_path)) as two:
        assert one.take("a")
        assert not two.take("a")


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"claim-a: Not a directory\. Check the path"):
        LockedClaims(LocalFiles(tmp_path / "file")).take("a")


def test_claims_are_given_back_on_a_disk_that_turned_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the error of the disk would hide what ended the work, and keep the other claims."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    claims, descriptors = LockedClaims(LocalFiles(tmp_path)), len(os.listdir("/proc/self/fd"))
    assert claims.take("a")
    assert claims.take("b")
    with monkeypatch.context() as disk:
        disk.setattr(Path, "unlink", refuse)
        disk.setattr(os, "unlink", refuse)
        claims.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with LockedClaims(LocalFiles(tmp_path)) as other:
        assert other.take("a")
        assert other.take("b")
