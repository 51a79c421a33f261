"""A cache's files on a local disk: whole or not there, and flushed in an order that survives a power failure.

Bytes are written to a file in the folder `.partial` of the cache, flushed, and then renamed or linked to
their place. A writer holds a lock on its partial file, which the system drops when it dies: what can be
locked is left over. Nothing is written or removed through a link below the cache's own folder; read it is, so that a
cache may lie in a store of blobs (as the Hugging Face hub keeps what it downloads), where each file is a link to one.
"""

import errno
import fcntl
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcache.cache.files import MAX_WHOLE, Files
from kdcache.errors import CacheError, CorruptError, UnreadableError
from kdcache.io.disk import Disk, make_folder
from kdcache.io.failures import RefusedError, SpecialFileError, TooLargeError, cannot_read, cannot_write, cause
from kdcache.io.folders import Folder, Location, components, open_folder
from kdcache.io.reading import open_descriptor, opened, read_bytes, read_part

PARTIAL = ".partial"

#: Errors that tell that something else lies in a file's place, and not that it cannot be reached for the moment.
_WRONG_KIND = (errno.ENOTDIR, errno.EISDIR)

#: The files in `PARTIAL` that are of kdcache's making: what is being written, claims, and what serves them.
_OWN_NAMES = re.compile(r"[0-9a-f]{32}|placing|(claim|clock|doctor)-.+")

#: Errors of file systems that have no hard links or no locks.
UNSUPPORTED = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EMLINK)

#: What is wrong with a file system on which no record can be put but in the place of another.
NO_LINKS_NO_LOCKS = "its file system has neither hard links nor locks, so that two processes could write one record"

#: What an error of the disk does not harm, and what to do after one of reading.
KEPT = "Nothing that is recorded is lost"
READ_AGAIN = f"{KEPT}: run the same command again when the cause is gone."

#: How often a write begins anew when another process took its partial file for a left-over and removed it.
ATTEMPTS = 8


class LocalFiles(Files):
    """Keys are paths under `root`, which comes into being with the first write and may be a link."""

    def __init__(self, root: Path | str, *, read_only: bool = False, disk: Disk | None = None) -> None:
        self.root = Path(root).absolute()
        self.read_only = read_only
        self.disk = disk or Disk()

    def locate(self, key: str) -> str:
        """Return the path of a key."""
        return str(self.root / key)

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a file, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError):
            return read_bytes(self.root / key, MAX_WHOLE)
        return None

    def get_part(self, key: str, start: int, length: int) -> bytes | None:
        """Return some bytes of a file, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError), opened(self.root / key) as file:
            return read_part(file, start, length)
        return None

    def size(self, key: str) -> int | None:
        """Return the length of a file, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / key).stat().st_size
        return None

    def modified(self, key: str) -> float | None:
        """Return when a file was last written, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / key).stat().st_mtime
        return None

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none where it does not exist."""
        with self._named("read", folder), suppress(FileNotFoundError):
            return sorted(os.listdir(self.root / folder))
        return []

    def put(self, key: str, *parts: bytes) -> None:
        """Write a partial file, flush it and rename it."""
        with self._named("write", key):
            self._staged(key, parts, self.disk.replace)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write and flush a partial file, link it, and flush the folders.

        Where there are no hard links, it is renamed under a lock if nothing has the key.
        """

        def place(partial: Location, target: Location) -> None:
            try:
                self.disk.link(partial, target)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                with self._alone(partial.folder):
                    if target.folder.stat(target.name) is not None:
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target.path)) from None
                    self.disk.replace(partial, target)
            else:
                self.disk.remove(partial)

        with self._named("write", key):
            try:
                self._staged(key, [data], place)
            except FileExistsError:
                return False
            self.flush([key])
        return True

    def flush(self, keys: Iterable[str]) -> None:
        """Flush the folders of these files and all above them, up to the one that holds the cache."""
        folders = {folder for key in keys for folder in (self.root / key).relative_to(self.root).parents}
        with self._named("write", ""):
            for path in sorted(folders, key=lambda path: (-len(path.parts), path)):
                with open_folder(self.root, "/".join(path.parts)) as folder:
                    self.disk.flush_folder(folder)
            with Folder.trusted(self.root.parent) as folder:
                self.disk.flush_folder(folder)

    def delete(self, key: str) -> None:
        """Remove a file and flush its folder."""
        *above, name = components(key)
        with self._named("write", key):
            try:
                folder = open_folder(self.root, "/".join(above))
            except (FileNotFoundError, NotADirectoryError):
                return
            with folder:
                if folder.stat(name) is not None:
                    self.disk.remove(folder.at(name))
                    self.disk.flush_folder(folder)

    def prepare(self) -> None:
        """Write a file and remove it again, so that a month of work does not end at the first block."""
        with self._named("write", ""):
            self._staged("", [], lambda partial, target: self.disk.remove(partial))
        self.tidy()

    def tidy(self) -> None:
        """Remove the partial files of our own making that no living process holds, and their folder when it is empty.

        Whatever else lies in that folder stays.
        """
        with self._named("write", PARTIAL), suppress(FileNotFoundError):
            with open_folder(self.root, PARTIAL) as folder:
                for place in map(folder.at, filter(_OWN_NAMES.fullmatch, folder.names())):
                    with _left_over(place) as nobody_holds_it:
                        if nobody_holds_it:
                            self.disk.remove(place)
            with open_folder(self.root) as root:
                self.disk.remove_folder(root.at(PARTIAL))

    def partial_folder(self) -> Folder:
        """Return the folder of partial files, open, which is made where it is missing; OSError where that fails."""
        return make_folder(self.root, PARTIAL, self.disk)

    def _staged(self, key: str, parts: Sequence[bytes], place: Callable[[Location, Location], None]) -> None:
        """Write and flush all parts as a partial file, then `place` it; leave nothing behind when the disk refuses."""
        *above, name = components(key) or [""]
        for _ in range(ATTEMPTS):
            # Not found: another process tidied the folder away, or took the file for a left-over before it was locked.
            with (
                suppress(FileNotFoundError),
                make_folder(self.root, "/".join(above), self.disk) as folder,
                self.partial_folder() as partials,
            ):
                self._write(partials.at(uuid.uuid4().hex), parts, lambda partial: place(partial, folder.at(name)))
                return
        raise OSError(errno.EAGAIN, "other processes keep removing its partial file")

    def _write(self, partial: Location, parts: Sequence[bytes], place: Callable[[Location], None]) -> None:
        file = self.disk.create(partial)
        try:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in parts:
                self.disk.write(file, part)
            self.disk.flush(file)
            place(partial)
        except OSError:
            with suppress(OSError):
                self.disk.remove(partial)
            raise
        finally:
            os.close(file)

    @contextmanager
    def _alone(self, partials: Folder) -> Iterator[None]:
        """Keep out every other process that asks for the same; OSError where the file system has no locks either."""
        place = partials.at("placing")
        while True:
            file = self.disk.open(place)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                os.close(file)
                with suppress(OSError):
                    self.disk.remove(place)
                remedy = "use a folder on another file system, or an object store."
                raise RefusedError(error.errno or 0, NO_LINKS_NO_LOCKS, place.path, remedy) from error
            if is_still(file, place):
                break
            os.close(file)  # whoever had it before has removed it, or somebody tidied it away
        try:
            yield
            self.disk.remove(place)
        finally:
            os.close(file)

    @contextmanager
    def _named(self, verb: str, key: str) -> Iterator[None]:
        """Turn an error of the system into one that names the place."""
        if verb == "write" and self.read_only:
            raise CacheError(f"The cache {self.root} was opened for reading and cannot be changed.")
        where = self.locate(key)
        try:
            yield
        except TooLargeError as error:
            raise self.too_large(key) from error
        except SpecialFileError as error:
            if verb == "read":  # it cannot be what was written, whatever it gives
                raise CorruptError(f"{where} is not what was written: {cause(error)}.", "Remove it.") from error
            raise CacheError(cannot_write(where, error, KEPT)) from error
        except OSError as error:
            if verb == "read":
                is_wrong = isinstance(error, RefusedError) or error.errno in _WRONG_KIND
                raise (CacheError if is_wrong else UnreadableError)(cannot_read(where, error, READ_AGAIN)) from error
            raise CacheError(cannot_write(where, error, KEPT)) from error


@contextmanager
def _left_over(place: Location) -> Iterator[bool]:
    """Yield whether the process that wrote a partial file is dead, as far as its lock tells.

    The lock is held meanwhile, so that nobody can come to hold a file that is about to be removed.
    """
    try:
        file = open_descriptor(place.name, folder=place.folder.descriptor, follow=False)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = is_still(file, place)
        except OSError:
            free = False
        yield free
    finally:
        os.close(file)


def is_still(file: int, place: Location) -> bool:
    """Return whether an open file is the one that lies at a place."""
    status = place.folder.stat(place.name)
    return status is not None and os.path.samestat(os.fstat(file), status)
