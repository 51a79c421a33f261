"""A cache: a Zarr v3 group of a view set's windows and the answers of its teachers.

    zarr.json                          group; its attribute `kdcache` is the view set
    windows/                           int32 [samples], the window of each sample
    teachers/NAME/zarr.json            group; its attribute `kdcache` is the teacher's identity
    teachers/NAME/ARRAY/               [view, ...], one chunk for each chunk of rows
    teachers/NAME/TABLE/               one chunk for all views (`Coding.tables`)
    teachers/NAME/records/VIEW/BLOCK.json

What the bytes of a chunk and of a zarr.json are is `zarr_form`'s to say.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from kdcache.cache.claims import Claims, open_claims
from kdcache.cache.durable import PARTIAL
from kdcache.cache.entry import Entry
from kdcache.cache.files import Files
from kdcache.cache.identity import (
    FORMAT,
    TEACHER_NAME,
    TeacherIdentity,
    ViewSetIdentity,
    require_same,
    seal,
    windows_checksum,
)
from kdcache.cache.layout import VIEW_CAPACITY, table_key, teacher_key
from kdcache.cache.places import open_files
from kdcache.cache.zarr_form import (
    META,
    OURS,
    ZarrChunk,
    array_metadata,
    group_content,
    group_metadata,
    require_array,
)
from kdcache.errors import CacheError, CorruptError, IdentityError, UsageError
from kdcache.targets.base import MAX_TABLE_BYTES, ArraySpec, Coding
from kdcache.targets.kinds import make_coding

#: Window ids in a chunk of their array.
WINDOWS_CHUNK = 2**22


class Cache:
    """A cache that exists; `Cache.open` and `Cache.create` make one."""

    def __init__(self, files: Files, view_set: ViewSetIdentity) -> None:
        self.view_set = view_set
        self._files = files

    @staticmethod
    def exists(path: str | Path, *, files: Files | None = None) -> bool:
        """Whether a whole cache is there (of whatever identity)."""
        return (files or open_files(path)).size(META) is not None

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
        foreign = sorted(set(files.names("")) - {PARTIAL, "windows", "teachers"})
        if foreign:
            raise CacheError(
                f"{files.locate('')} is {'a cache already' if META in foreign else 'not empty'} "
                f"(it holds {foreign[0]}); use another folder."
            )
        files.prepare()
        codec = _windows_codec(view_set.samples)
        keys = ["windows/" + META, "teachers/" + META]
        for number, start in enumerate(range(0, view_set.samples, WINDOWS_CHUNK)):
            part = np.zeros(codec.spec.shape, np.int32)
            part[: len(windows) - start] = windows[start : start + WINDOWS_CHUNK]
            keys.append(f"windows/c/{number}")
            files.put(keys[-1], codec.encode(part))
        metas = cache_metadata(view_set)
        for key in keys[:2]:
            files.put(key, metas[key])
        files.flush(keys)
        if not files.put_if_absent(META, metas[META]):
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

        Raises IdentityError where a cache of another view set is there, CacheError as `create` and `open` do.
        """
        if not cls.exists(path, files=files):
            try:
                return cls.create(path, view_set, windows, files=files)
            except CacheError:
                if not cls.exists(path, files=files):
                    raise  # else another process was faster
        cache = cls.open(path, read_only=False, files=files)
        require_same(cache.view_set, view_set, f"The cache {cache.location}")
        return cache

    @classmethod
    def open(cls, path: str | Path, read_only: bool = True, *, files: Files | None = None) -> "Cache":
        """Open a cache. Raises CacheError where there is none, or none that this version can read or write."""
        files = files or open_files(path, read_only)
        place = files.locate("")
        data = files.get(META)
        if data is None:
            raise CacheError(f"There is no cache at {place}. Make one with kdcache dump-logits, or check --cache.")
        content = group_content(data, files.locate(META))
        version = content.get("format")
        if type(version) is int and version < FORMAT:
            raise CacheError(
                f"The cache {place} has format {version}, and this version of kdcache reads format {FORMAT}: classes "
                "and probabilities were stored otherwise before. Run dump-logits again with another --cache."
            )
        if type(version) is int and version > FORMAT:
            raise CacheError(
                f"The cache {place} has format {version}, and this version of kdcache reads format {FORMAT}. "
                "Update kdcache."
            )
        view_set = ViewSetIdentity.from_json(content, files.locate(META))
        if not files.read_only:
            files.prepare()
        return cls(files, view_set)

    @property
    def files(self) -> Files:
        """Where its bytes lie."""
        return self._files

    @property
    def location(self) -> str:
        """Where the cache lies, for messages."""
        return self._files.locate("")

    @property
    def windows(self) -> Int32[np.ndarray, " n"]:
        """The window of each sample. Raises CorruptError where they are not those of the view set."""
        codec = _windows_codec(self.view_set.samples)
        parts = []
        for number in range(-(-self.view_set.samples // WINDOWS_CHUNK)):
            data = self._files.get(f"windows/c/{number}")
            if data is None:
                raise CorruptError(f"{self._files.locate(f'windows/c/{number}')} is missing; restore it from a copy.")
            parts.append(codec.decode(data))
        windows = np.concatenate(parts)[: self.view_set.samples]
        if windows_checksum(windows) != self.view_set.windows:
            raise CorruptError(f"{self._files.locate('windows')} was altered; restore it from a copy.")
        return windows

    def once_bytes(self) -> dict[str, int]:
        """Bytes of what is stored once and not for each view: windows, tables, and the metadata of everything."""
        windows = (self._files.size(f"windows/c/{part}") for part in range(-(-self.view_set.samples // WINDOWS_CHUNK)))
        metas, tables = list(cache_metadata(self.view_set)), []
        for name in self.teachers():
            entry = self.entry(name)
            metas += entry_metadata(entry)
            tables += [table_key(name, table) for table in entry.coding.tables()]
        return {
            "windows": sum(size or 0 for size in windows),
            "tables": sum(self._files.size(key) or 0 for key in tables),
            "metadata": sum(self._files.size(key) or 0 for key in metas),
        }

    def claims(self) -> Claims:
        """Claims on blocks of this cache, which keep processes that write it out of each other's way."""
        return open_claims(self._files)

    def teachers(self) -> dict[str, TeacherIdentity]:
        """The identity of each teacher, by name."""
        names = [name for name in self._files.names("teachers") if name != META]
        found = {name: self._teacher(name) for name in names}
        return {name: identity for name, identity in found.items() if identity is not None}

    def entry(self, name: str) -> Entry:
        """A teacher's entry. Raises CacheError where there is none of that name."""
        identity = self._teacher(name)
        if identity is None:
            there = ", ".join(self.teachers()) or "none yet"
            raise CacheError(f"The cache {self._files.locate('')} has no teacher '{name}' (there is: {there}).")
        where = self._files.locate(f"{teacher_key(name)}/{META}")
        if identity.name != name:
            raise CorruptError(f"{where} is the entry of teacher '{identity.name}'; rename its folder to that.")
        try:
            targets = dict(identity.targets)
            coding = make_coding(targets.pop("kind", ""), identity.num_classes, **targets)
        except UsageError as error:
            raise CacheError(f"{where} names targets that this version of kdcache does not know: {error}") from error
        return self._entry(identity, self._with_tables(coding, identity))

    def with_stored_tables(self, coding: Coding, name: str) -> Coding:
        """The coding with the tables of the teacher of this name, or as it is where there is no such teacher."""
        stored = self._teacher(name)
        return coding if stored is None else self._with_tables(coding, stored)

    def add_teacher(self, identity: TeacherIdentity, coding: Coding, *, exact: bool = False) -> Entry:
        """The entry of this teacher, made where there is none of its name.

        An entry that is there keeps its own tables, whatever those of `coding` are, unless `exact`: chunks that were
        packed with a table can be read with no other.
        Raises IdentityError where a teacher of that name differs in any other field, or with `exact` in a table.
        """
        if identity.targets != coding.identity() or identity.num_classes != coding.num_classes:
            raise CacheError("The coding is not the one that the teacher's identity names.")
        folder = teacher_key(identity.name)
        if self._teacher(identity.name) is None:
            if set(self._files.names(f"{folder}/records")) - {META}:
                raise CorruptError(f"{self._files.locate(folder)} has lost its {META}; restore it from a copy.")
            coding = self._settle_tables(coding, identity.name, exact)
            identity = replace(identity, targets=coding.identity())
            # The identity before the arrays: it settles which of two processes makes an entry of this name.
            self._files.put_if_absent(f"{folder}/{META}", group_metadata({OURS: seal(identity.to_json())}))
        stored = self._teacher(identity.name)
        assert stored is not None
        what = f"Teacher '{identity.name}' of the cache {self._files.locate('')}"
        if exact:
            require_same(stored, identity, what)
        coding = self._with_tables(coding, stored)
        identity = replace(identity, targets=coding.identity())
        require_same(stored, identity, what)
        entry = self._entry(identity, coding)
        metas = entry_metadata(entry)
        metas.pop(f"{folder}/{META}")
        missing = [key for key in metas if self._files.size(key) is None]
        for key in missing:
            self._files.put(key, metas[key])
        if missing:
            self._files.tidy()  # the first block flushes them: its files lie in the same folders
        return entry

    def _teacher(self, name: str) -> TeacherIdentity | None:
        key = f"{teacher_key(name)}/{META}"
        data = self._files.get(key) if TEACHER_NAME.fullmatch(name) else None
        if data is None:
            return None
        where = self._files.locate(key)
        return TeacherIdentity.from_json(group_content(data, where), where)

    def _settle_tables(self, coding: Coding, name: str, exact: bool) -> Coding:
        """Store the tables of a coding before anything refers to them; what another process stored first is kept.

        Raises IdentityError where that is another table and the coding has to be `exact` the same.
        """
        settled = {}
        for table, values in coding.tables().items():
            key, codec = table_key(name, table), ZarrChunk(coding.table_specs()[table])
            if not self._files.put_if_absent(key, codec.encode(values)):
                try:
                    found = self._table(coding, name, table)
                    coding.with_tables({table: found})
                except CorruptError:  # of a killed process whose entry never came to be
                    self._files.put(key, codec.encode(values))
                else:
                    if exact and not np.array_equal(found, values):
                        self._files.tidy()
                        raise IdentityError(
                            f"{self._files.locate(key)} is of a dump that was begun, and is not the table that these "
                            f"answers were stored with. Let the dump finish, or, if none is running, delete the folder "
                            f"{self._files.locate(teacher_key(name))}; or use another cache.",
                            field=f"targets.{table}",
                        )
                    values = found
            meta = f"{teacher_key(name)}/{table}/{META}"
            self._files.put(meta, array_metadata(codec.spec, codec.spec.shape, codec.spec.shape))
            self._files.flush([key, meta])
            settled[table] = values
        return coding.with_tables(settled)

    def _with_tables(self, coding: Coding, stored: TeacherIdentity) -> Coding:
        """The coding with the tables of a stored entry. Raises CorruptError where they were altered."""
        if stored.targets.get("kind") != coding.kind or stored.num_classes != coding.num_classes:
            return coding
        tables = {
            table: self._table(coding, stored.name, table) for table in coding.table_specs() if table in stored.targets
        }
        coding = coding.with_tables(tables)
        for table in tables:
            if coding.parameters()[table] != stored.targets[table]:
                where = self._files.locate(table_key(stored.name, table))
                raise CorruptError(f"{where} was altered: its checksum does not fit. Restore the file from a copy.")
        return coding

    def _table(self, coding: Coding, name: str, table: str) -> np.ndarray:
        key, spec = table_key(name, table), coding.table_specs()[table]
        if spec.nbytes > MAX_TABLE_BYTES:  # before anything is read: the number of classes is only what a file says
            raise CorruptError(
                f"{self._files.locate(key)} would have {spec.nbytes / 2**20:,.0f} MiB, more than a table can have: "
                "the teacher's zarr.json was altered. Restore it from a copy."
            )
        data = self._files.get(key)
        if data is None:
            raise CorruptError(f"{self._files.locate(key)} is missing; restore it from a copy.")
        try:
            return ZarrChunk(spec).decode(data)
        except CorruptError as error:
            raise CorruptError(f"{self._files.locate(key)}: {error} Restore the file from a copy.") from error

    def _entry(self, identity: TeacherIdentity, coding: Coding) -> Entry:
        codecs = {
            name: ZarrChunk(spec) for name, spec in coding.arrays(coding.chunk_rows(self.view_set.block_rows)).items()
        }
        entry = Entry(self._files, self.view_set, identity, coding, codecs)
        for name, codec in codecs.items():
            key = f"{teacher_key(identity.name)}/{name}/{META}"
            data = self._files.get(key)
            if data is not None:
                require_array(data, _teacher_array_meta(codec.spec, entry.layout.chunks), self._files.locate(key))
        return entry


def cache_metadata(view_set: ViewSetIdentity) -> dict[str, bytes]:
    """The zarr.json files of a cache without its teachers' entries, by key."""
    codec = _windows_codec(view_set.samples)
    return {
        META: group_metadata({OURS: seal(view_set.to_json())}),
        "windows/" + META: array_metadata(codec.spec, (view_set.samples,), codec.spec.shape),
        "teachers/" + META: group_metadata({}),
    }


def entry_metadata(entry: Entry) -> dict[str, bytes]:
    """The zarr.json files of a teacher's entry, by key; the first is the one that makes it an entry."""
    folder, layout = teacher_key(entry.identity.name), entry.layout
    metas = {f"{folder}/{META}": group_metadata({OURS: seal(entry.identity.to_json())})}
    # The records' folder is a group, so that Zarr libraries list the entry without a warning.
    metas[f"{folder}/records/{META}"] = group_metadata({})
    for name, spec in entry.coding.arrays(layout.chunk_rows).items():
        metas[f"{folder}/{name}/{META}"] = _teacher_array_meta(spec, layout.chunks)
    for table in entry.coding.tables():
        spec = entry.coding.table_specs()[table]
        metas[f"{folder}/{table}/{META}"] = array_metadata(spec, spec.shape, spec.shape)
    return metas


def _windows_codec(samples: int) -> ZarrChunk:
    return ZarrChunk(ArraySpec("int32", (min(samples, WINDOWS_CHUNK),), shuffle="shuffle"))


def _teacher_array_meta(spec: ArraySpec, chunks: int) -> bytes:
    shape = [length * chunks if axis == spec.axis else length for axis, length in enumerate(spec.shape)]
    return array_metadata(spec, (VIEW_CAPACITY, *shape), (1, *spec.shape))
