"""A cache: a Zarr v3 group of a view set's windows and the targets of its teachers.

    zarr.json                          group; its attribute `kdcache` is the view set
    windows/                           int32 [samples], the window of each sample
    lost/                              samples of which there may be targets of a stand-in, see `cache.lost`
    teachers/NAME/zarr.json            group; its attribute `kdcache` is the teacher's identity
    teachers/NAME/ARRAY/               [view, ...], the chunks of rows, one or several in a file
    teachers/NAME/TABLE/               one chunk for all views (`TargetCodec.tables`)
    teachers/NAME/records/VIEW/BLOCK.json

What the bytes of a chunk and of a zarr.json are is `zarr_form`'s to say.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from kdcache.cache.claims import Claims, open_claims
from kdcache.cache.durable import PARTIAL
from kdcache.cache.entry import Entry
from kdcache.cache.files import Files
from kdcache.cache.identity import (
    FORMAT,
    OLDEST_FORMAT,
    TEACHER_NAME,
    TeacherIdentity,
    ViewSetIdentity,
    require_same,
    seal,
    windows_checksum,
)
from kdcache.cache.layout import table_key, teacher_key
from kdcache.cache.locations import open_files
from kdcache.cache.lost import copy_lost, read_lost, write_lost
from kdcache.cache.metadata import cache_metadata, entry_metadata, targets_metadata
from kdcache.cache.tables import lost_tables, restore_tables, store_tables, with_stored_tables
from kdcache.cache.windows import read_windows, restore_windows, windows_keys, write_windows
from kdcache.cache.zarr_form import META, OURS, ZarrChunk, group_content, group_metadata, require_array
from kdcache.errors import CacheError, CorruptError, UsageError
from kdcache.io.folder_lock import is_lock_file
from kdcache.runtime.signals import last_act
from kdcache.targets.base import TargetCodec
from kdcache.targets.kinds import create_codec

#: The claim of the process that creates a cache, and seconds between two looks at that of another.
_CREATION = "creation"
_PAUSE = 0.2


class Cache:
    """A cache that exists; `Cache.open` and `Cache.create` make one."""

    def __init__(self, files: Files, view_set: ViewSetIdentity) -> None:
        self.view_set = view_set
        self._files = files

    @staticmethod
    def exists(path: str | Path, *, files: Files | None = None) -> bool:
        """Return whether a whole cache is there (of whatever identity)."""
        files = files or open_files(path)
        return files.confirm(META, lambda: files.size(META)) is not None

    @classmethod
    def create(
        cls,
        path: str | Path,
        view_set: ViewSetIdentity,
        windows: Int32[np.ndarray, " n"],
        *,
        files: Files | None = None,
    ) -> "Cache":
        """Make an empty cache and open it for writing.

        Raises CacheError where there is something else already or nothing can be written. What a creation
        left that was killed is completed. `files` are another place for the bytes than the folder `path`.
        """
        files = files or open_files(path)
        if windows.shape != (view_set.samples,) or windows_checksum(windows) != view_set.windows:
            raise CacheError("The windows are not those of the view set.")
        _require_empty(files)
        files.prepare()
        # One at a time: the bytes of another cache, written meanwhile, would lie under the identity of this one.
        with open_claims(files) as claims, last_act(claims.close):
            while not claims.take(_CREATION):
                _require_empty(files)
                time.sleep(_PAUSE)
            _require_empty(files)
            keys = write_windows(files, windows)
            metas = cache_metadata(view_set)
            identity = metas.pop(META)
            for key, data in metas.items():
                files.put(key, data)
            files.flush([*keys, *metas])
            if not files.put_if_absent(META, identity):
                raise CacheError(f"Another process made a cache in {files.locate('')} meanwhile; start again.")
        files.tidy()
        return cls(files, view_set)

    @classmethod
    def ensure(
        cls,
        path: str | Path,
        view_set: ViewSetIdentity,
        windows: Int32[np.ndarray, " n"],
        *,
        files: Files | None = None,
    ) -> "Cache":
        """Open the cache of this view set for writing, made where there is none; several processes may do so at once.

        Windows that were lost are written again. A cache that is there keeps its format, whatever that of `view_set`.
        Raises IdentityError where a cache of another view set is there, CacheError as `create` and `open` do.
        """
        if not cls.exists(path, files=files):
            try:
                return cls.create(path, view_set, windows, files=files)
            except CacheError:
                if not cls.exists(path, files=files):
                    raise  # else another process was faster
        cache = cls.open(path, read_only=False, files=files)
        view_set = replace(view_set, format=cache.view_set.format)
        require_same(cache.view_set, view_set, f"The cache {cache.location}")
        restore_windows(cache.files, view_set, windows)
        return cache

    @classmethod
    def open(cls, path: str | Path, read_only: bool = True, *, files: Files | None = None) -> "Cache":
        """Open a cache. Raises CacheError where there is none, or none that this version can read or write."""
        files = files or open_files(path, read_only)
        place = files.locate("")
        content = _read_group(files, META)
        if content is None:
            raise CacheError(f"There is no cache at {place}. Make one with kdcache dump-logits, or check the path.")
        version = content.get("format")
        reads = f"this version of kdcache reads formats {OLDEST_FORMAT} and {FORMAT}"
        if type(version) is int and version < OLDEST_FORMAT:
            raise CacheError(
                f"The cache {place} has format {version}, and {reads}: files were laid out otherwise before. Run "
                "dump-logits again with another --cache."
            )
        if type(version) is int and version > FORMAT:
            raise CacheError(f"The cache {place} has format {version}, and {reads}. Update kdcache.")
        view_set = ViewSetIdentity.from_json(content, files.locate(META))
        if not files.read_only:
            files.prepare()
        return cls(files, view_set)

    @property
    def files(self) -> Files:
        """The files of the cache."""
        return self._files

    @property
    def location(self) -> str:
        """Where the cache lies, for messages."""
        return self._files.locate("")

    @property
    def format_warning(self) -> str | None:
        """What a cache of an older format does not prove, in sentences; None for one of the format of today."""
        if self.view_set.records_name_blocks:
            return None
        return (
            f"The cache {self.location} has format {self.view_set.format}, whose records do not say which block they "
            "are of: where blocks were exchanged, or copied from another cache, only `kdcache verify` with --data and "
            "--teacher finds it, if it happens to look at them. `kdcache cache copy` makes a cache of format "
            f"{FORMAT} of this one, whose records say it from then on."
        )

    @property
    def windows(self) -> Int32[np.ndarray, " n"]:
        """The window of each sample. Raises CorruptError where they are not those of the view set."""
        return read_windows(self._files, self.view_set)

    def lost(self) -> frozenset[str]:
        """Return the keys of samples whose images were lost when blocks were made. Raises as `read_lost` does."""
        return read_lost(self._files)

    def add_lost(self, keys: Collection[str]) -> str | None:
        """Note samples as lost, before blocks are written with stand-ins in their place, whose records name this."""
        return write_lost(self._files, keys)

    def add_lost_of(self, source: "Cache") -> None:
        """Note what another cache has noted, after its blocks were listed, and before they are copied."""
        copy_lost(source.files, self._files)

    def once_bytes(self, entries: Iterable[Entry]) -> dict[str, int]:
        """Return the bytes of what is stored once and not for each view: windows, tables, and the metadata of it all.

        entries: the teachers' that count.
        """

        def size(key: str) -> int:
            return self._files.confirm(key, lambda: self._files.size(key)) or 0

        metas, tables = list(cache_metadata(self.view_set)), []
        for entry in entries:
            metas += entry_metadata(entry)
            tables += [table_key(entry.identity.name, table) for table in entry.codec.tables()]
        return {
            "windows": sum(map(size, windows_keys(self.view_set.samples))),
            "tables": sum(map(size, tables)),
            "metadata": sum(map(size, metas)),
        }

    def claims(self) -> Claims:
        """Claims on blocks of this cache, which keep processes that write it out of each other's way."""
        return open_claims(self._files)

    def names(self) -> list[str]:
        """Return the names of all teachers, sorted, whatever state their entries are in; no entry is read."""
        folders = [name for name in sorted(self._files.all_names("teachers")) if TEACHER_NAME.fullmatch(name)]
        keys = {name: f"{teacher_key(name)}/{META}" for name in folders}
        return [
            name for name, key in keys.items() if self._files.confirm(key, partial(self._files.size, key)) is not None
        ]

    def teacher(self, name: str) -> TeacherIdentity | None:
        """Return the identity of the teacher of this name, whatever became of others; None where there is none.

        Raises CacheError where it is damaged.
        """
        key = f"{teacher_key(name)}/{META}"
        content = _read_group(self._files, key) if TEACHER_NAME.fullmatch(name) else None
        return None if content is None else TeacherIdentity.from_json(content, self._files.locate(key))

    def entry(self, name: str, *, strict: bool = True, tables: bool = True) -> Entry:
        """Return a teacher's entry. Raises CacheError where there is none of that name, or it is damaged.

        CorruptError is raised also where all of its records are of other entries (`Blocks.require_own_records`).

        Unless `strict`, the zarr.json files of its arrays may say what they like: kdcache reads without them. Without
        `tables` none of them is read: what is recorded can be told, and its bytes checked, but no targets decoded.
        """
        identity = self.teacher(name)
        if identity is None:
            there = ", ".join(self.names()) or "none yet"
            raise CacheError(f"The cache {self._files.locate('')} has no teacher '{name}' (there is: {there}).")
        where = self._files.locate(f"{teacher_key(name)}/{META}")
        if identity.name != name:
            raise CorruptError(f"{where} is the entry of teacher '{identity.name}'; rename its folder to that.")
        codec = _codec_of(identity, where)
        self._entry(identity, codec, strict=False).require_own_records()  # before its tables are said to be wrong
        codec = with_stored_tables(self._files, codec, identity) if tables else codec
        return self._entry(identity, codec, strict)

    def with_stored_tables(self, codec: TargetCodec, name: str) -> TargetCodec:
        """Return the codec with the tables of the teacher of this name, or as it is where there is no such teacher."""
        stored = self.teacher(name)
        return codec if stored is None else with_stored_tables(self._files, codec, stored)

    def lost_tables(self, name: str) -> dict[str, str]:
        """Return the tables of a teacher's entry that are missing or were altered, and what is wrong with each.

        `add_teacher` puts them back where its codec has the same ones.
        """
        stored = self.teacher(name)
        if stored is None:
            return {}
        where = self._files.locate(f"{teacher_key(name)}/{META}")
        return lost_tables(self._files, _codec_of(stored, where), stored)

    def add_teacher(self, identity: TeacherIdentity, codec: TargetCodec, *, exact: bool = False) -> Entry:
        """Return the entry of this teacher, made where there is none of its name.

        An entry that is there keeps its own tables, whatever those of `codec` are, unless `exact`: chunks that were
        packed with a table can be read with no other.
        Raises IdentityError where a teacher of that name differs in any other field, or with `exact` in a table, and
        CorruptError as `entry` does.
        """
        if identity.targets != codec.identity() or identity.num_classes != codec.num_classes:
            raise CacheError("The codec is not the one that the teacher's identity names.")
        folder = teacher_key(identity.name)
        if self.teacher(identity.name) is None:
            if self._files.all_names(f"{folder}/records") - {META}:
                raise CorruptError(f"{self._files.locate(folder)} has lost its {META}; restore it from a copy.")
            store_tables(self._files, codec, identity.name)
            # The identity before the arrays: it settles which of two processes makes an entry of this name.
            self._files.put_if_absent(f"{folder}/{META}", group_metadata({OURS: seal(identity.to_json())}))
        stored = self.teacher(identity.name)
        assert stored is not None
        what = f"Teacher '{identity.name}' of the cache {self._files.locate('')}"
        require_same(stored, identity if exact else replace(identity, targets=stored.targets), what)
        # Before anything is written beside records that may be dear to somebody.
        where = self._files.locate(f"{folder}/{META}")
        self._entry(stored, _codec_of(stored, where), strict=False).require_own_records()
        restore_tables(self._files, codec, stored)
        codec = with_stored_tables(self._files, codec, stored)
        identity = replace(identity, targets=codec.identity())
        require_same(stored, identity, what)
        entry = self._entry(identity, codec)
        metas = entry_metadata(entry)
        metas.pop(f"{folder}/{META}")
        missing = [key for key in metas if self._files.size(key) is None]
        for key in missing:
            self._files.put(key, metas[key])
        if missing:
            self._files.tidy()  # the first block flushes them: its files lie in the same folders
        return entry

    def _entry(self, identity: TeacherIdentity, codec: TargetCodec, strict: bool = True) -> Entry:
        codecs = {
            name: ZarrChunk(spec) for name, spec in codec.arrays(codec.chunk_rows(self.view_set.block_rows)).items()
        }
        entry = Entry(self._files, self.view_set, identity, codec, codecs)
        for name, chunk_codec in codecs.items() if strict else ():
            key = f"{teacher_key(identity.name)}/{name}/{META}"
            self._files.confirm(
                key, partial(self._check_array, key, targets_metadata(chunk_codec.spec, entry.layout)), bool
            )
        return entry

    def _check_array(self, key: str, expected: bytes) -> bool:
        """Return True where a zarr.json is as expected or is not there. Raises CorruptError where it is not."""
        data = self._files.get(key)
        if data is not None:
            require_array(data, expected, self._files.locate(key))
        return True


def _read_group(files: Files, key: str) -> dict[str, Any] | None:
    """Return the sealed content of a group's zarr.json; None where there is none. Raises CorruptError if damaged."""

    def read() -> dict[str, Any] | None:
        data = files.get(key)
        try:
            return None if data is None else group_content(data, files.locate(key))
        except CacheError as error:
            raise CorruptError(error.problem, error.remedy) from error

    return files.confirm(key, read)


def _codec_of(identity: TeacherIdentity, where: str) -> TargetCodec:
    """Return the codec that an identity names, without its tables. Raises CacheError, naming `where`, if unknown."""
    try:
        targets = dict(identity.targets)
        return create_codec(str(targets.pop("kind", "")), identity.num_classes, **targets)
    except UsageError as error:
        raise CacheError(f"{where} names targets that this version of kdcache does not know: {error}") from error


def _require_empty(files: Files) -> None:
    """Raise CacheError where a place holds a cache, or anything that a creation does not leave."""
    ours = {PARTIAL, "windows", "teachers"}
    foreign = sorted(name for name in files.all_names("") - ours if not is_lock_file(name))
    if foreign:
        raise CacheError(
            f"{files.locate('')} is {'a cache already' if META in foreign else 'not empty'} "
            f"(it holds {foreign[0]}); use another folder."
        )
