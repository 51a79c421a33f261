"""Samples of which a cache may hold targets of a stand-in: their images were lost when some of its blocks were made.

    lost/zarr.json      group, so that Zarr libraries list the cache without a warning
    lost/HASH.json      {"keys": [...]}: keys of samples, sorted; HASH is the BLAKE2b of the bytes

A dump whose index marks samples as lost writes their keys here before it writes the first block, and the record of each
block that it makes names that list: a block whose list is gone is as good as damaged. Lists stay for good: if an image
is repaired later, nobody knows which rows were made of it and which were not. Whoever trains passes over the pairs of
all of them. Several processes may write at once, each file is whole, and the union of all counts.
"""

import hashlib
import json
from collections.abc import Collection

from kdcache.cache.files import MAX_WHOLE, Files
from kdcache.cache.layout import LOST, lost_key
from kdcache.cache.record import LOST_NAME
from kdcache.cache.zarr_form import META, group_metadata
from kdcache.errors import CorruptError
from kdcache.io.json_format import parse_json


def lost_names(files: Files) -> list[str]:
    """Return the names of all lists, sorted."""
    names = (name.removesuffix(".json") for name in sorted(files.all_names(LOST)) if name.endswith(".json"))
    return [name for name in names if LOST_NAME.fullmatch(name)]


def read_lost(files: Files) -> frozenset[str]:
    """Return the keys of all samples that any dump into this cache lost. Raises CorruptError if a list is altered."""
    keys: set[str] = set()
    for name in lost_names(files):
        keys.update(_keys(_checked(files, name), files, name))
    return frozenset(keys)


def write_lost(files: Files, keys: Collection[str]) -> str | None:
    """Write the list of these lost samples; returns its name when it will survive a power failure, None for no keys.

    Raises CorruptError where a list of this name is there and is altered.
    """
    if not keys:
        return None
    data = json.dumps({"keys": sorted(keys)}, ensure_ascii=False).encode()
    name = _hash(data)
    _put(files, name, data)
    return name


def copy_lost(source: Files, target: Files) -> None:
    """Copy every list, byte for byte, as records name them. Raises CorruptError where one is altered."""
    for name in lost_names(source):
        _put(target, name, _checked(source, name))


def _put(files: Files, name: str, data: bytes) -> None:
    files.put_if_absent(f"{LOST}/{META}", group_metadata({}))
    if not files.put_if_absent(lost_key(name), data):
        _checked(files, name)


def _checked(files: Files, name: str) -> bytes:
    """Return the bytes of a list, which are those that its name stands for."""
    key = lost_key(name)
    data = files.confirm(key, lambda: files.get(key), lambda found: found is not None and _hash(found) == name)
    if data is None or _hash(data) != name:
        raise _altered(files, name)
    return data


def _keys(data: bytes, files: Files, name: str) -> list[str]:
    try:
        keys = parse_json(data, max_bytes=MAX_WHOLE)["keys"]
    except (ValueError, KeyError, TypeError) as error:
        raise _altered(files, name) from error
    if not isinstance(keys, list) or not all(isinstance(each, str) for each in keys):
        raise _altered(files, name)
    return keys


def _altered(files: Files, name: str) -> CorruptError:
    return CorruptError(
        f"{files.locate(lost_key(name))} was altered, which lists samples whose targets must not be trained on.",
        "Restore it from a copy of the cache. Without one delete it: then every block whose record names it counts as "
        "damaged, `kdcache verify --repair` drops these, and the same dump-logits makes them anew.",
    )


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
