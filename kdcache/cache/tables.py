"""The tables of a teacher's coding, as a cache keeps them: each one chunk, before anything that refers to it.

The teacher's identity names their checksums, so that a table that is read is the right one, and one that is lost can be
put back by whoever makes the same again.
"""

import numpy as np

from kdcache.cache.files import Files
from kdcache.cache.identity import TeacherIdentity
from kdcache.cache.layout import table_key, teacher_key
from kdcache.cache.zarr_form import META, ZarrChunk, array_metadata
from kdcache.errors import CorruptError
from kdcache.targets.base import MAX_TABLE_BYTES, Coding


def with_stored_tables(files: Files, coding: Coding, stored: TeacherIdentity) -> Coding:
    """The coding with the tables of a stored entry. Raises CorruptError where one is missing or was altered."""
    if not _is_alike(coding, stored):
        return coding
    if coding.fixed_tables and coding.table_specs().keys() - stored.targets.keys():
        raise CorruptError(
            f"{files.locate(f'{teacher_key(stored.name)}/{META}')} names no checksum of a table that its answers are "
            "read with: it was altered. Restore it from a copy."
        )
    return coding.with_tables({table: _sound(files, coding, stored, table) for table in _named(coding, stored)})


def lost_tables(files: Files, coding: Coding, stored: TeacherIdentity) -> dict[str, str]:
    """The tables of a stored entry that are missing or were altered, and what is wrong with each, in sentences."""
    found = {}
    for table in _named(coding, stored) if _is_alike(coding, stored) else ():
        try:
            _sound(files, coding, stored, table)
        except CorruptError as error:
            found[table] = str(error)
    return found


def restore_tables(files: Files, coding: Coding, stored: TeacherIdentity) -> None:
    """Put back what is lost of a stored entry's tables, where the coding has the very same."""
    same = {table for table, check in coding.parameters().items() if stored.targets.get(table) == check}
    for table in same & coding.tables().keys() & lost_tables(files, coding, stored).keys():
        key, spec = table_key(stored.name, table), coding.table_specs()[table]
        files.put(key, ZarrChunk(spec).encode(coding.tables()[table]))
        files.flush([key])
        files.tidy()


def settle_tables(files: Files, coding: Coding, name: str) -> None:
    """Store the tables of a coding, before the identity that names them.

    A table that no identity names is of a dump that was killed, perhaps of another teacher's: it is written over. Of
    two processes that get here at once, the one whose identity stays calls `restore_tables` after that.
    """
    for table, values in coding.tables().items():
        key, codec = table_key(name, table), ZarrChunk(coding.table_specs()[table])
        data = codec.encode(values)
        if files.get(key) != data:
            files.put(key, data)
        meta = f"{teacher_key(name)}/{table}/{META}"
        files.put(meta, array_metadata(codec.spec, codec.spec.shape, codec.spec.shape))
        files.flush([key, meta])


def _is_alike(coding: Coding, stored: TeacherIdentity) -> bool:
    return bool(stored.targets.get("kind") == coding.kind and stored.num_classes == coding.num_classes)


def _named(coding: Coding, stored: TeacherIdentity) -> list[str]:
    """The tables that a stored entry has."""
    return [table for table in coding.table_specs() if table in stored.targets]


def _sound(files: Files, coding: Coding, stored: TeacherIdentity, table: str) -> np.ndarray:
    """A table of a stored entry. Raises CorruptError where it is not the one that the identity names."""
    values = _table(files, coding, stored.name, table)
    where = files.locate(table_key(stored.name, table))
    try:
        found = coding.with_tables({table: values}).parameters().get(table)
    except CorruptError as error:
        raise CorruptError(f"{where} was altered: {error} {_remedy(files, stored.name)}") from error
    if found != stored.targets[table]:
        raise CorruptError(f"{where} was altered: its checksum does not fit. {_remedy(files, stored.name)}")
    return values


def _table(files: Files, coding: Coding, name: str, table: str) -> np.ndarray:
    key, spec = table_key(name, table), coding.table_specs()[table]
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
        f"Without this table no answer of teacher '{name}' can be read. Run the same dump-logits again: it makes the "
        "table anew, and goes on if that comes out the same. Else restore the file from a copy, of which any that "
        f"`kdcache cache copy` made will do; or delete the folder {files.locate(teacher_key(name))} and lose its "
        "answers."
    )
