"""What tests of the lock of a folder share: a folder to hold, short times, and file systems without locks."""

import errno
import fcntl

import pytest

import kdcache.io.folder_lock as folder_lock
from kdcache.io.folder_lock import hold_folder
from support.folder_holder import without_locks

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

REMEDY = "Give another --out."


@pytest.fixture
def told():
    return []


@pytest.fixture
def hold(tmp_path, told):
    """Hold a folder of this test; what is waited for is in `told`."""

    def hold(folder=tmp_path / "run"):
        return hold_folder(folder, f"The folder {folder}", REMEDY, told.append)

    return hold


@pytest.fixture
def quick(monkeypatch):
    """Times that a test can wait for."""
    monkeypatch.setattr(folder_lock, "HEARTBEAT_INTERVAL", 0.02)
    monkeypatch.setattr(folder_lock, "LEASE_TIMEOUT", 0.3)
    monkeypatch.setattr(folder_lock, "SETTLING_TIME", 0.01)
    monkeypatch.setattr(folder_lock, "NOTICE_AFTER", 0.0)


@pytest.fixture(params=["locks", *NO_LOCKS])
def locks(request, monkeypatch, quick):
    """Each test with a file system that has locks, and with some that have none."""
    if request.param != "locks":
        monkeypatch.setattr(fcntl, "flock", fcntl.flock)  # put back at the end
        without_locks(request.param)
    return request.param == "locks"
