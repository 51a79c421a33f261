"""Whether what lies in a block's place is of that block, and of which block it is otherwise.

Checksums say that bytes are what was written; they do not say where they were written. A record does, from format 4 on:
it names its view set and teacher by a digest of their identities, and its view and block by their numbers. So files
that were exchanged, or copied from another cache, are recognised by their record, and chunks without their record by
the checksums of the record that they lie beside.
"""

from kdcache.cache.files import Files
from kdcache.cache.identity import TEACHER_NAME, TeacherIdentity
from kdcache.cache.layout import record_key, teacher_key
from kdcache.cache.record import BlockId
from kdcache.cache.zarr_form import META, group_content
from kdcache.errors import CacheError, CorruptError


def belongs_elsewhere(files: Files, found: BlockId | None, expected: BlockId) -> str:
    """Of which block a record is that is not its place's own: the predicate of a sentence, such as "is that of ..."."""
    if found is None:
        return "does not say which block it is of, as in caches of format 3: it comes from such a cache"
    which = f"is that of view {found.view}, block {found.block}"
    if found.teacher == expected.teacher:
        of_teacher = ""
    else:
        name = _entry_with(files, found.teacher)
        of_teacher = f" of teacher '{name}'" if name else " of a teacher that this cache does not hold"
    if found.view_set == expected.view_set:
        return which + of_teacher
    return f"{which}{of_teacher or ' of the same teacher'} in another cache, of other data, policy or seed"


def no_own_record(files: Files, name: str, found: BlockId | None, expected: BlockId) -> CorruptError:
    """Return the error for an entry all of whose records are of other entries; one of them serves as the example."""
    folder, where = teacher_key(name), files.locate(record_key(name, expected.view, expected.block))
    same_views = found is not None and found.view_set == expected.view_set
    meta = f"{folder}/{META}" if same_views else META
    return CorruptError(
        f"None of the records of teacher '{name}' is its own: that of view {expected.view}, block {expected.block} "
        f"({where}) {belongs_elsewhere(files, found, expected)}. Either the folder {files.locate(folder)} or files in "
        f"it were copied here from elsewhere, or {files.locate(meta)} was replaced. None of these targets is used, and "
        "--repair drops none of them.",
        "Put the folder back where it belongs, or restore that file from a copy; or delete the folder, and the same "
        "dump-logits computes its targets again.",
    )


def _entry_with(files: Files, digest: str) -> str | None:
    """Return the entry of the cache whose teacher's identity has this digest; None where none can be read."""
    for name in files.names("teachers"):
        key = f"{teacher_key(name)}/{META}"
        try:
            data = files.get(key) if TEACHER_NAME.fullmatch(name) else None
            if data is not None and TeacherIdentity.from_json(group_content(data, key), key).digest == digest:
                return name
        except CacheError:
            continue
    return None
