"""A whole cache where there are no locks: one copy or repair at a time, taken over from the dead alone."""

import os
import socket
from functools import partial
from pathlib import Path

import pytest

from kdcache.cache import held_store
from kdcache.cache.claims import BeatingClaims
from kdcache.cache.durable import LocalFiles
from kdcache.cache.held_store import CLAIM, hold_store
from kdcache.errors import FolderHeldError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_store, "PAUSE", 0.01)
    monkeypatch.setattr(held_store, "NOTICE_AFTER", 0.0)


def beating(monkeypatch: pytest.MonkeyPatch, interval: float, timeout: float) -> None:
    claims = partial(BeatingClaims, heartbeat_interval=interval, lease_timeout=timeout)
    monkeypatch.setattr(held_store, "BeatingClaims", claims)


def test_a_second_one_is_refused_with_process_and_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beating(monkeypatch, 0.05, 60)
    told: list[str] = []
    with hold_store(LocalFiles(tmp_path), told.append):
        with (
            pytest.raises(FolderHeldError) as refused,
            hold_store(LocalFiles(tmp_path), told.append),
        ):
            raise AssertionError("both hold it")
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert str(refused.value) == (f"The cache {tmp_path} is being written by {holder}. Wait until it has ended.")
    with hold_store(LocalFiles(tmp_path), told.append):
        pass
    assert len(told) <= 1
    assert not list(tmp_path.rglob("claim-*"))


def test_it_is_taken_over_from_a_dead_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = LocalFiles(tmp_path)
    files.put(f".partial/claim-{CLAIM}", b"0123 7 process 1 on gone")
    beating(monkeypatch, 60, 0.3)
    told: list[str] = []
    with hold_store(files, told.append):
        content = files.get(f".partial/claim-{CLAIM}")
        assert content is not None
        assert content.split(maxsplit=2)[2].decode() == f"process {os.getpid()} on {socket.gethostname()}"
    assert [line.split(".")[0] for line in told] == [
        f"The cache {tmp_path} was being written by process 1 on gone, and it is not known here whether that process "
        "still runs"
    ]


def test_a_failure_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beating(monkeypatch, 60, 60)
    with pytest.raises(KeyboardInterrupt), hold_store(LocalFiles(tmp_path), print):
        raise KeyboardInterrupt
    with hold_store(LocalFiles(tmp_path), print):
        pass
