"""The part that all importers share: samples that can be read in any order, written to shards by several threads.

An import that was interrupted goes on. The file IMPORT-INCOMPLETE has a line for each complete file, with a digest of
what went into it: the keys and labels of its samples, and the size and time of their sources. A file stays when the
same import would make it of the same sources again; all others are written anew.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from kdcache.data.images import image_size
from kdcache.data.importers.resizing import Resizing
from kdcache.data.importers.shuffling import shuffled
from kdcache.data.shards import INCOMPLETE
from kdcache.data.writer import (
    MARKER,
    PARTIAL,
    NewSample,
    finish,
    new_shards,
    open_tar,
    parts_of,
    prepare,
    reported,
)
from kdcache.errors import DataError, UsageError
from kdcache.io.atomic import append
from kdcache.io.disk import Disk, make_folder
from kdcache.io.folders import Folder
from kdcache.io.reading import read_text
from kdcache.runtime.cores import cores
from kdcache.runtime.progress import Progress, Task

#: Seconds between two reports of the progress of several threads.
_REPORT_INTERVAL = 0.2


@runtime_checkable
class Samples(Protocol):
    """The samples of a source, by number from 0; several threads read them in any order."""

    def read(self, number: int) -> NewSample:
        """Return a sample, whose image has a sound header. Raises DataError if it cannot be read."""

    def stamp(self, number: int) -> str:
        """Return a text that differs where the sample's key, label or source differs, without reading the image."""


@dataclass(frozen=True)
class ImportOptions:
    """What every importer can be told.

    Attributes:
        seed: seed of the order of the samples.
        samples_per_shard: number of samples in each shard but the last.
        resizing: how large images are made smaller; None to copy image files unchanged.
        workers: number of threads; None for one per core.
    """

    seed: int = 0
    samples_per_shard: int = 1000
    resizing: Resizing | None = None
    workers: int | None = None


class _Shard(NamedTuple):
    """A shard to be written: its final name, and the numbers of its samples in their order."""

    name: str
    numbers: Sequence[int]


class ImportFolder:
    """The folder of an import, which this process holds from the making of the object to the end of a `with` block."""

    def __init__(self, out: Path, progress: Progress) -> None:
        """Hold the folder. Raises FolderHeldError, and DataError where it holds shards or cannot be written."""
        self._out, self._progress = out, progress
        self._lock = new_shards(out, progress)
        self._stamps: dict[str, str] = {}
        self._noting = threading.Lock()

    def __enter__(self) -> "ImportFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def write(
        self,
        samples: Samples,
        order: Sequence[int],
        class_names: Sequence[str] | None,
        options: ImportOptions,
        sources: Collection[str] = (),
    ) -> int:
        """Write samples to shards in the order given, and return their number.

        Args:
            order: numbers of the samples.
            class_names: names in the order of the labels; None to write no names.
            sources: names of files in the folder that the samples are read from; they are removed at the end.

        Raises:
            UsageError: a shard size below 1.
            DataError: a sample cannot be read, or the folder cannot be written; what is complete stays.
        """
        size = options.samples_per_shard
        if size < 1:
            raise UsageError(f"A shard cannot hold {size} samples. Give a number from 1.")
        starts = range(0, len(order), size)
        shards = [_Shard(f"shard-{n:06d}.tar", order[start : start + size]) for n, start in enumerate(starts)]
        with reported(self._out):
            folder = make_folder(self._out)
        with folder:
            writer = _Writer(folder, samples, options.resizing)
            done = self._complete(folder, shards, writer.stamp)
            keep = {name for shard in done for name in (shard.name, f"{shard.name}{PARTIAL}")}
            self._prepare(folder, {*keep, *sources})
            count = sum(len(shard.numbers) for shard in done)
            if done:
                self._progress.say(f"going on with an import: {len(done):,} of {len(shards):,} shards are complete")
            with self._progress.task("importing", total=len(order), done=count) as task:
                missing = [shard for shard in shards if shard not in done]
                with closing(self._written(writer, missing, options.workers, task)) as written:
                    for shard, stamp in written:
                        self._note(folder, f"{shard.name}{PARTIAL}", stamp)
            with reported(self._out):
                finish(folder, [shard.name for shard in shards], class_names)
        return len(order)

    def write_source(self, name: str, stamp: str, parts: Iterable[bytes]) -> None:
        """Write a file that samples are read from until the import ends, unless a complete one is there.

        Args:
            name: name that `source_name` gave.
            stamp: text that differs where the content would.
            parts: content; nothing of it is computed where the file is there.
        """
        disk = Disk()
        with reported(self._out):
            folder = make_folder(self._out)
        with folder:
            if self._stamps_of(folder).get(name) == stamp and folder.holds_file(name):
                return
            with reported(self._out):
                disk.remove(folder.at(name))
                file = disk.create(folder.at(name))
            try:
                for part in parts:
                    with reported(self._out):
                        disk.write(file, part)
                with reported(self._out):
                    disk.flush(file)
            finally:
                os.close(file)
            self._note(folder, name, stamp)

    def begin(self) -> None:
        """Mark the folder as incomplete, before `write_source`; files of an import that was interrupted stay."""
        with reported(self._out), make_folder(self._out) as folder:
            self._prepare(folder, {*self._stamps_of(folder), *folder.names()})

    def _complete(self, folder: Folder, shards: Sequence[_Shard], stamp: Callable[[_Shard], str]) -> list[_Shard]:
        """Return the shards that an interrupted import has completed."""
        noted = self._stamps_of(folder)
        there = set(folder.names())
        return [
            shard
            for shard in shards
            if (name := f"{shard.name}{PARTIAL}") in noted
            and (name in there or shard.name in there)
            and noted[name] == stamp(shard)
        ]

    def _stamps_of(self, folder: Folder) -> dict[str, str]:
        """Return what the file INCOMPLETE says: the stamp of each complete file by its name."""
        if not self._stamps and folder.holds_file(INCOMPLETE):
            with reported(self._out):
                text = read_text(folder.library_path() / INCOMPLETE)
            if text.startswith(MARKER):
                pairs = (line.split(" ") for line in text[len(MARKER) :].splitlines(keepends=True) if line[-1] == "\n")
                self._stamps = {pair[0]: pair[1].rstrip() for pair in pairs if len(pair) == 2}
        return self._stamps

    def _prepare(self, folder: Folder, keep: Collection[str]) -> None:
        self._stamps = {name: stamp for name, stamp in self._stamps_of(folder).items() if name in keep}
        with reported(self._out):
            prepare(folder, keep, "".join(f"{name} {stamp}\n" for name, stamp in self._stamps.items()))

    def _note(self, folder: Folder, name: str, stamp: str) -> None:
        self._lock.require_held()
        with self._noting, reported(self._out):
            append(folder.library_path(), INCOMPLETE, f"{name} {stamp}\n".encode())
            self._stamps[name] = stamp

    def _written(
        self, writer: "_Writer", shards: Sequence[_Shard], workers: int | None, task: Task
    ) -> Generator[tuple[_Shard, str], None, None]:
        """Write the shards and yield each, with its stamp, when it is complete."""
        workers = min(workers or cores(), len(shards))
        if workers <= 1:
            for shard in shards:
                with reported(self._out):
                    stamp = writer.write(shard, task.advance)
                yield shard, stamp
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="kdcache-import")
        try:
            waiting = {pool.submit(writer.write, shard): shard for shard in shards}
            pending: set[Future[str]] = set(waiting)
            while pending:
                finished, pending = wait(pending, timeout=_REPORT_INTERVAL, return_when=FIRST_COMPLETED)
                if count := writer.take_count():
                    task.advance(count)
                for future in finished:
                    with reported(self._out):
                        stamp = future.result()
                    yield waiting.pop(future), stamp
        finally:
            writer.stop()
            pool.shutdown(cancel_futures=True)


class _Writer:
    """Writes shards of samples, in any number of threads."""

    def __init__(self, folder: Folder, samples: Samples, resizing: Resizing | None) -> None:
        self._folder, self._samples, self._resizing = folder, samples, resizing
        self._stopped = threading.Event()
        self._lock, self._count = threading.Lock(), 0

    def stamp(self, shard: _Shard) -> str:
        """Return the digest of what goes into a shard."""
        return digest([repr(self._resizing), *map(self._samples.stamp, shard.numbers)])

    def write(self, shard: _Shard, advance: Callable[[], None] | None = None) -> str:
        """Write a shard under its name of an incomplete one, and return its stamp.

        advance: called after each sample; None to count them for `take_count`.
        """
        stamp = self.stamp(shard)  # before the images are read: what changes meanwhile is read again the next time
        place = self._folder.at(f"{shard.name}{PARTIAL}")
        Disk().remove(place)
        with open_tar(place) as tar:
            for number in shard.numbers:
                if self._stopped.is_set():
                    break
                sample = self._samples.read(number)
                if self._resizing is not None:
                    sample = self._resizing.apply(sample)
                tar.write(parts_of(sample))
                (advance or self._add)()
        return stamp

    def stop(self) -> None:
        """End all threads before their next sample; what they return from then on is not complete."""
        self._stopped.set()

    def take_count(self) -> int:
        """Return the number of samples that were written since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count

    def _add(self) -> None:
        with self._lock:
            self._count += 1


def source_name(number: int) -> str:
    """Return the name of a file for `ImportFolder.write_source`."""
    return f".source-{number:06d}{PARTIAL}"


def digest(texts: Iterable[str]) -> str:
    """Return a digest of texts, in hexadecimal."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        total.update(text.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


def random_order(keys: Sequence[str], seed: int) -> list[int]:
    """Return the numbers of keys in a random order that depends on the keys and the seed alone.

    Raises DataError where two keys are the same.
    """
    numbers = {key: number for number, key in enumerate(keys)}
    if len(numbers) < len(keys):
        key = next(key for number, key in enumerate(keys) if numbers[key] != number)
        raise DataError(
            f"Two images have the key {key}, so that nobody could tell them apart. Remove one from the source, or "
            "rename it, and run the import again."
        )
    return [numbers[key] for key in shuffled(numbers, seed)]


def require_image(data: bytes, where: str) -> None:
    """Raise DataError where bytes do not begin with the header of an image; `where` names them in the message."""
    try:
        image_size(BytesIO(data))
    except ValueError as error:
        raise DataError(
            f"{where} cannot be read as an image: {error}. Replace or remove it, and run the import again."
        ) from error
