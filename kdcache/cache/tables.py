"""The tables of a teacher's codec, as a cache keeps them: each one chunk, before anything that refers to it.

The teacher's identity names their checksums, so that a table that is read is the right one, and one that is lost can be
put back by whoever makes the same again.
"""

import numpy as np

from kdcache.cache.files import Files
from kdcache.cache.identity import TeacherIdentity
from kdcache.cache.layout import table_key, teacher_key
from kdcache.cache.zarr_form import META, ZarrChunk, array_metadata
from kdcache.errors import CorruptError
from kdcache.targets.base import MAX_TABLE_BYTES, TargetCodec


def with_stored_tables(files: Files, codec: TargetCodec, stored: TeacherIdentity) -> TargetCodec:
    """Return the codec with the tables of a stored entry. Raises CorruptError where one is missing or was altered."""
    if not _is_alike(codec, stored):
        return codec
    if codec.fixed_tables and codec.table_specs().keys() - stored.targets.keys():
        raise CorruptError(
            f"{files.locate(f'{teacher_key(stored.name)}/{META}')} names no checksum of a table that its targets are "
            "read with: it was altered. Restore it from a copy."
        )
    return codec.with_tables({table: _sound(files, codec, stored, table) for table in _named(codec, stored)})


def lost_tables(files: Files, codec: TargetCodec, stored: TeacherIdentity) -> dict[str, str]:
    """Return the tables of a stored entry that are missing or were altered, each with a sentence that says why."""
    found = {}
    for table in _named(codec, stored) if _is_alike(codec, stored) else ():
        try:
            _sound(files, codec, stored, table)
        except CorruptError as error:
            found[table] = str(error)
    return found


def restore_tables(files: Files, codec: TargetCodec, stored: TeacherIdentity) -> None:
    """Put back what is lost of a stored entry's tables, where the codec has the very same."""
    same = {table for table, check in codec.parameters().items() if stored.targets.get(table) == check}
    for table in same & codec.tables().keys() & lost_tables(files, codec, stored).keys():
        written = _as_files(codec, stored.name, table)
        for key, data in written.items():
            files.put(key, data)
        files.flush(written)
        files.tidy()


def store_tables(files: Files, codec: TargetCodec, name: str) -> None:
    """Store the tables of a codec, before the identity that names them; nothing where an identity is there already.

    A table that no identity names is of a dump that was killed, perhaps of another teacher's: it is written over. An
    identity may still come to be between a look and a put: whoever writes blocks under it calls `restore_tables` before
    the first, and after the last.
    """
    for table in codec.tables():
        written = _as_files(codec, name, table)
        for key, data in written.items():
            if files.get(key) == data:
                continue
            if _has_identity(files, name):
                return
            files.put(key, data)
        files.flush(written)
    _clear_left_over(files, codec, name)


def _clear_left_over(files: Files, codec: TargetCodec, name: str) -> None:
    """Remove what a killed dump with another codec left before its entry came to be."""
    folder = teacher_key(name)
    for other in set(files.names(folder)) - {META, "records", *codec.arrays(2), *codec.tables()}:
        for key in (table_key(name, other), f"{folder}/{other}/{META}"):
            if files.size(key) is not None and not _has_identity(files, name):
                files.delete(key)


def _has_identity(files: Files, name: str) -> bool:
    """Return whether an entry of this name is there, so that its tables are not to be touched."""
    key = f"{teacher_key(name)}/{META}"
    return files.confirm(key, lambda: files.size(key)) is not None


def _as_files(codec: TargetCodec, name: str, table: str) -> dict[str, bytes]:
    """Return a table's bytes, and those of its zarr.json, by key."""
    chunk_codec = ZarrChunk(codec.table_specs()[table])
    return {
        table_key(name, table): chunk_codec.encode(codec.tables()[table]),
        f"{teacher_key(name)}/{table}/{META}": array_metadata(
            chunk_codec.spec, chunk_codec.spec.shape, chunk_codec.spec.shape
        ),
    }


def _is_alike(codec: TargetCodec, stored: TeacherIdentity) -> bool:
    return bool(stored.targets.get("kind") == codec.kind and stored.num_classes == codec.num_classes)


def _named(codec: TargetCodec, stored: TeacherIdentity) -> list[str]:
    """Return the tables that a stored entry has."""
    return [table for table in codec.table_specs() if table in stored.targets]


def _sound(files: Files, codec: TargetCodec, stored: TeacherIdentity, table: str) -> np.ndarray:
    """Return a table of a stored entry. Raises CorruptError where it is not the one that the identity names."""
    return files.confirm(table_key(stored.name, table), lambda: _named_table(files, codec, stored, table))


def _named_table(files: Files, codec: TargetCodec, stored: TeacherIdentity, table: str) -> np.ndarray:
    values = _table(files, codec, stored.name, table)
    where = files.locate(table_key(stored.name, table))
    try:
        found = codec.with_tables({table: values}).parameters().get(table)
    except CorruptError as error:
        raise CorruptError(f"{where} was altered: {error} {_remedy(files, stored.name)}") from error
    if found != stored.targets[table]:
        raise CorruptError(f"{where} was altered: its checksum does not fit. {_remedy(files, stored.name)}")
    return values


def _table(files: Files, codec: TargetCodec, name: str, table: str) -> np.ndarray:
    key, spec = table_key(name, table), codec.table_specs()[table]
    if spec.nbytes > MAX_TABLE_BYTES:  # before anything is read: the number of classes is only what a file says
        raise CorruptError(
            f"{files.locate(key)} would have {spec.nbytes >> 20:,} MiB, more than a table can have: "
            "the teacher's zarr.json was altered. Restore it from a copy."
        )
    data = files.get(key)
    if data is None:
        raise CorruptError(f"{files.locate(key)} is missing. {_remedy(files, name)}")
    try:
        return ZarrChunk(spec).decode(data)
    except CorruptError as error:
        raise CorruptError(f"{files.locate(key)} was altered: {error} {_remedy(files, name)}") from error


def _remedy(files: Files, name: str) -> str:
    return (
        f"Without this table no target of teacher '{name}' can be read. Run the same dump-logits again: it makes the "
        "table anew, and goes on if that comes out the same. Else restore the file from a copy, of which any that "
        f"`kdcache cache copy` made will do; or delete the folder {files.locate(teacher_key(name))} and lose its "
        "targets."
    )
