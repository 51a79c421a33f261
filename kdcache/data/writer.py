"""Writing of a set of webdataset shards: either all of it, or marked as incomplete.

Until the last shard is whole they carry names that no reader takes for shards, and a file IMPORT-INCOMPLETE lies beside
them until each has its own name: `expand_data` refuses such a folder. `write_shards` starts afresh there; importers,
whose samples can be read in any order, go on (`kdcache.data.importers.shard_import`).
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdcache.data.member_names import LABEL, split_name
from kdcache.data.shards import CLASSES, INCOMPLETE
from kdcache.errors import DataError, UsageError
from kdcache.io.atomic import replace_file, tidy
from kdcache.io.disk import Disk, make_folder
from kdcache.io.failures import cannot_write
from kdcache.io.folder_lock import FolderLock, hold_folder
from kdcache.io.folders import Folder, Location
from kdcache.runtime.progress import Progress

if TYPE_CHECKING:
    from webdataset.writer import TarWriter

#: The end of the name of a shard, or of another file of an import, until the whole set is complete.
PARTIAL = ".partial"
#: The first line of the file INCOMPLETE. An importer adds a line for each complete file.
MARKER = "An import into this folder has begun and not ended. Run it again.\n"
#: What an import that was interrupted has left: shards, sources that were unpacked, class names.
_OURS = re.compile(
    rf"shard-\d{{6,}}\.tar({re.escape(PARTIAL)})?|\.source-\d{{6,}}{re.escape(PARTIAL)}|{re.escape(CLASSES)}"
)


class NewSample(NamedTuple):
    """A sample to be written: the image file's bytes go to KEY.EXTENSION, the label (if any) to KEY.cls."""

    key: str
    extension: str
    data: bytes
    label: int | None


def write_shards(
    samples: Iterable[NewSample],
    out: Path,
    *,
    samples_per_shard: int,
    class_names: Sequence[str] | None = None,
) -> int:
    """Write the samples, in the order given, to `out/shard-000000.tar` onwards and the names to `out/classes.json`.

    Equal samples give equal bytes. Returns the number of samples.

    Raises DataError as `require_no_shards` does and when the folder cannot be written, and UsageError for a shard size
    below 1 and for a key that webdataset would split elsewhere.
    """
    if samples_per_shard < 1:
        raise UsageError(f"A shard cannot hold {samples_per_shard} samples. Give a number from 1.")
    with reported(out):
        folder = make_folder(out)
    with folder:
        with reported(out):
            prepare(folder)
        count = 0
        source = iter(samples)
        shards: list[str] = []
        sample = next(source, None)
        while sample is not None:
            shards.append(f"shard-{len(shards):06d}.tar")
            with reported(out), open_tar(folder.at(f"{shards[-1]}{PARTIAL}")) as tar:
                for _ in range(samples_per_shard):
                    tar.write(parts_of(sample))
                    count += 1
                    sample = next(source, None)
                    if sample is None:
                        break
        with reported(out):
            finish(folder, shards, class_names)
    return count


def finish(folder: Folder, shards: Sequence[str], class_names: Sequence[str] | None) -> None:
    """Write the class names and give the shards, all of which are complete, their final names."""
    disk = Disk()
    if class_names is not None:
        names = json.dumps(list(class_names), ensure_ascii=False) + "\n"
        replace_file(folder.library_path(), CLASSES, names.encode())
    for shard in shards:
        if not folder.holds_file(shard):  # an interrupted import may have come so far
            disk.replace(folder.at(f"{shard}{PARTIAL}"), folder.at(shard))
    for name in folder.names():
        if _OURS.fullmatch(name) and name.endswith(PARTIAL):
            disk.remove(folder.at(name))
    disk.flush_folder(folder)
    disk.remove(folder.at(INCOMPLETE))


def new_shards(out: Path, progress: Progress) -> FolderLock:
    """Hold the folder of an import, until the lock is released; refuse one with shards of its own.

    Raises FolderHeldError where another process holds it, and DataError as `require_no_shards` does and when the
    folder cannot be written.
    """
    require_no_shards(out)
    remedy = "Two imports would mix their shards: wait until it has ended, or name another folder."
    with reported(out):
        return hold_folder(out, f"The folder of shards {out}", remedy, progress.say)


def require_no_shards(out: Path) -> None:
    """Raise DataError where `out` holds shards already, but for those that an interrupted import left."""
    with reported(out):
        there = () if (out / INCOMPLETE).exists() else (*out.glob("*.tar"), out / CLASSES)
        for path in there:
            if path.exists():
                raise DataError(
                    f"{out} already holds {path.name}; an import does not mix with what is there. "
                    "Name an empty folder, or remove the old shards."
                )


@contextmanager
def reported(out: Path) -> Iterator[None]:
    """Raise what the system refuses within the block as a DataError that shards cannot be written to `out`."""
    try:
        yield
    except OSError as error:
        raise DataError(cannot_write(f"shards to {out}", error, "Nothing that was there before is changed")) from error


def prepare(folder: Folder, keep: Collection[str] = (), lines: str = "") -> None:
    """Refuse a folder with other shards, and remove files of an interrupted import.

    Args:
        keep: names of files that stay.
        lines: text behind the first line of the file INCOMPLETE.
    """
    disk = Disk()
    require_no_shards(folder.path)
    replace_file(folder.library_path(), INCOMPLETE, (MARKER + lines).encode())
    for name in (CLASSES, INCOMPLETE):
        tidy(folder.library_path(), of=name)
    for name in filter(_OURS.fullmatch, folder.names()):
        if name not in keep:
            disk.remove(folder.at(name))


@contextmanager
def open_tar(place: Location) -> Iterator["TarWriter"]:
    """Open a new tar, whose bytes depend on what is written alone; it is on the disk when the block ends."""
    from webdataset.writer import TarWriter  # imports torch

    with os.fdopen(Disk().create(place), "wb") as stream:
        with TarWriter(stream, user="", group="", mode=0o444, mtime=0, encoder=False) as tar:
            yield tar
        stream.flush()
        os.fsync(stream.fileno())


def parts_of(sample: NewSample) -> dict[str, str | bytes]:
    """Return a sample as webdataset's writer takes it. Raises UsageError for a key that it would split elsewhere."""
    if split_name(f"{sample.key}.{sample.extension}") != (sample.key, sample.extension):
        raise UsageError(
            f"{sample.key}.{sample.extension} is no name for a sample: webdataset ends a key at the first dot of the "
            "base name and writes extensions in lower case. Take the dots out of the key."
        )
    parts: dict[str, str | bytes] = {"__key__": sample.key, sample.extension: sample.data}
    if sample.label is not None:
        parts[LABEL] = str(sample.label).encode()
    return parts
