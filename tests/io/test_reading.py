"""Only regular files are read, and only so many bytes."""

import os
import socket
from pathlib import Path

import pytest

from kdcache.io.failures import LinkError, SpecialFileError, TooLargeError
from kdcache.io.reading import open_regular, read_bytes, read_rest, read_text, require_regular


def test_a_regular_file_is_read_through_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("Größe")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "Größe"
    assert read_bytes(tmp_path / "file", 7) == "Größe".encode()
    with open_regular(tmp_path / "link") as file:
        assert file.read(2) == b"Gr"
    with pytest.raises(LinkError, match="symbolic link"):
        read_bytes(tmp_path / "link", 100, follow=False)


def test_a_file_of_more_bytes_than_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * 2**20))
    assert len(read_bytes(tmp_path / "file", 3 * 2**20)) == 3 * 2**20
    with pytest.raises(TooLargeError, match=r"more than 2 MiB"):
        read_bytes(tmp_path / "file", 2 * 2**20)


def test_a_file_that_has_more_bytes_than_it_claims_is_read_to_the_limit() -> None:
    """Files of /proc claim to have none."""
    path = Path("/proc/self/smaps")
    assert path.stat().st_size == 0
    assert read_bytes(path, 2**26).count(b"Rss:") > 20
    with pytest.raises(TooLargeError, match="more than 1 KiB"):
        read_bytes(path, 1024)


def test_a_file_that_grows_while_it_is_read_is_read_to_the_limit(tmp_path: Path) -> None:
    with open("/dev/zero", "rb", buffering=0) as endless, pytest.raises(TooLargeError):
        read_rest(endless.fileno(), 3 * 2**20, "endless")


@pytest.mark.parametrize(
    ("name", "words"),
    [("fifo", "a FIFO"), ("socket", "a socket"), ("folder", "a folder"), ("zero", "a device"), ("null", "a device")],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, name: str, words: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.getcwd()
        os.chdir(tmp_path)  # the paths of sockets are short
        try:
            server.bind("socket")
        finally:
            os.chdir(folder)
        for ask in (require_regular, open_regular, lambda path: read_bytes(path, 10)):
            with pytest.raises(SpecialFileError, match=f"it is {words} and not a regular file"):
                ask(tmp_path / name)


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "nothing", 10)
