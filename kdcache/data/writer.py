"""Writing of a set of webdataset shards: either all of it, or marked as incomplete.

Until the last shard is whole they carry names that no reader takes for shards, and a file IMPORT-INCOMPLETE lies beside
them until each has its own name: `expand_data` refuses such a folder, and the next import into it starts afresh.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
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

_PARTIAL = ".partial"
#: What an import that was interrupted has left.
_OURS = re.compile(rf"shard-\d{{6,}}\.tar({re.escape(_PARTIAL)})?|{re.escape(CLASSES)}")


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
    with _reported(out):
        folder = make_folder(out)
    with folder:
        with _reported(out):
            _prepare(folder)
        count = 0
        source = iter(samples)
        shards: list[str] = []
        sample = next(source, None)
        while sample is not None:
            shards.append(f"shard-{len(shards):06d}.tar")
            with _reported(out), _tar(folder.at(f"{shards[-1]}{_PARTIAL}")) as tar:
                for _ in range(samples_per_shard):
                    tar.write(_parts(sample))
                    count += 1
                    sample = next(source, None)
                    if sample is None:
                        break
        with _reported(out):
            _finish(folder, shards, class_names)
    return count


def _finish(folder: Folder, shards: Sequence[str], class_names: Sequence[str] | None) -> None:
    """Rename the shards to their final names when all are complete."""
    disk = Disk()
    if class_names is not None:
        names = json.dumps(list(class_names), ensure_ascii=False) + "\n"
        replace_file(folder.library_path(), CLASSES, names.encode())
    for shard in shards:
        disk.replace(folder.at(f"{shard}{_PARTIAL}"), folder.at(shard))
    disk.flush_folder(folder)
    disk.remove(folder.at(INCOMPLETE))


def new_shards(out: Path, progress: Progress) -> FolderLock:
    """Hold the folder of an import, until the lock is released; refuse one with shards of its own.

    Raises FolderHeldError where another process holds it, and DataError as `require_no_shards` does and when the
    folder cannot be written.
    """
    require_no_shards(out)
    remedy = "Two imports would mix their shards: wait until it has ended, or name another folder."
    with _reported(out):
        return hold_folder(out, f"The folder of shards {out}", remedy, progress.say)


def require_no_shards(out: Path) -> None:
    """Raise DataError where `out` holds shards already, but for those that an interrupted import left."""
    with _reported(out):
        there = () if (out / INCOMPLETE).exists() else (*out.glob("*.tar"), out / CLASSES)
        for path in there:
            if path.exists():
                raise DataError(
                    f"{out} already holds {path.name}; an import does not mix with what is there. "
                    "Name an empty folder, or remove the old shards."
                )


@contextmanager
def _reported(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(cannot_write(f"shards to {out}", error, "Nothing that was there before is changed")) from error


def _prepare(folder: Folder) -> None:
    """Refuse a folder with other shards, and remove files of an interrupted import."""
    disk = Disk()
    require_no_shards(folder.path)
    if not folder.holds_file(INCOMPLETE):
        text = b"An import into this folder has begun and not ended. Run it again.\n"
        replace_file(folder.library_path(), INCOMPLETE, text)
    tidy(folder.library_path(), of=CLASSES)
    for name in filter(_OURS.fullmatch, folder.names()):
        disk.remove(folder.at(name))


@contextmanager
def _tar(place: Location) -> Iterator["TarWriter"]:
    """A tar whose bytes depend on what is written to it alone; it is on the disk when the block ends."""
    from webdataset.writer import TarWriter  # imports torch

    with os.fdopen(Disk().create(place), "wb") as stream:
        with TarWriter(stream, user="", group="", mode=0o444, mtime=0, encoder=False) as tar:
            yield tar
        stream.flush()
        os.fsync(stream.fileno())


def _parts(sample: NewSample) -> dict[str, str | bytes]:
    if split_name(f"{sample.key}.{sample.extension}") != (sample.key, sample.extension):
        raise UsageError(
            f"{sample.key}.{sample.extension} is no name for a sample: webdataset ends a key at the first dot of the "
            "base name and writes extensions in lower case. Take the dots out of the key."
        )
    parts: dict[str, str | bytes] = {"__key__": sample.key, sample.extension: sample.data}
    if sample.label is not None:
        parts[LABEL] = str(sample.label).encode()
    return parts
