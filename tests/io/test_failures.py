"""Sentences about what cannot be written or read."""

import errno
import os

import pytest

from kdcache.io.failures import LinkError, SpecialFileError, cannot_read, cannot_write, system_error


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Nothing is lost: make room, then run the same command again."),
        (errno.EDQUOT, "Nothing is lost: make room or have the quota raised, then run the same command again."),
        (errno.EIO, "Nothing is lost: check the disk or its network mount, then run the same command again."),
        (errno.EROFS, "Use a folder that you can write to, or have its permissions changed."),
        (errno.EBUSY, "Nothing is lost: run the same command again when the cause is gone."),
    ],
)
def test_the_system_s_errors_have_a_remedy(number: int, words: str) -> None:
    error = OSError(number, os.strerror(number))
    assert cannot_write("a/b", error, "Nothing is lost") == f"Cannot write a/b: {os.strerror(number)}. {words}"


def test_refusals_bring_their_own_remedy() -> None:
    assert "mount the other disk there" in cannot_write("a/b", LinkError("a"), "Nothing is lost")
    assert cannot_read("a/b", SpecialFileError("a/b", "a FIFO"), "Restore it.").endswith(
        "it is a FIFO and not a regular file. Put the file there, or remove it."
    )
    assert cannot_read("a", OSError(5, "Input/output error"), "Restore it.").endswith("error. Restore it.")


def test_errors_that_libraries_wrap_are_found() -> None:
    found = system_error(ValueError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert found is not None
    assert (found.errno, found.strerror) == (errno.ENOSPC, "No space left on device")
    found = system_error(RuntimeError("failed: [Errno 5] Input/output error"))
    assert found is not None
    assert found.errno == errno.EIO
    try:
        try:
            raise PermissionError(errno.EACCES, "no")
        except OSError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        found = system_error(error)
    assert isinstance(found, PermissionError)
    assert system_error(ValueError("something else (28)")) is None
