"""Files that must not be followed or read: foreign ones behind links, and those that are no bounded regular files."""

import os
from pathlib import Path


class Foreign:
    """A folder of somebody else's, outside of everything that kdcache is given.

    Its files have names that kdcache uses, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        for name in ("precious.txt", "0123456789abcdef0123456789abcdef", "claim-a", "0.json", "zarr.json"):
            (path / name).write_text(f"{name} of somebody else's")
        (path / ".a.partial-0123456789abcdef0123456789abcdef").mkdir()
        (path / ".a.partial-0123456789abcdef0123456789abcdef/file").write_text("in it")
        self.note()

    def note(self) -> None:
        """Take what is there now for what has to stay."""
        self._before = self._state()

    def _state(self) -> dict[str, tuple[int, bytes | None]]:
        found = {}
        for path in [self.path, *sorted(self.path.rglob("*"))]:
            found[os.path.relpath(path, self.path)] = (
                path.lstat().st_mode,
                path.read_bytes() if path.is_file() else None,
            )
        return found

    def assert_untouched(self) -> None:
        """Fail unless every file is there as it was, and no other."""
        assert self._state() == self._before


def fifo(path: Path) -> None:
    """Put a FIFO in the place of a file: who opens it waits for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    """Put a link to a device without end in the place of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def too_long(path: Path) -> None:
    """Make a file one of 1 TiB, all of it a hole."""
    with path.open("wb") as file:
        file.truncate(2**40)
