"""Trials of the locations of data, cache, runs and weights."""

import os
import tempfile
import uuid
from pathlib import Path
from typing import Any


def folder(path: str) -> dict[str, Any]:
    """Create a file in a folder, or in the nearest existing one above it; return the error, if any, and the free bytes.

    Of a folder that refuses: the error's number and text.
    """
    place = Path(path).absolute()
    while not _is_there(place):
        place = place.parent
    refused: dict[str, Any] = {"errno": None, "cause": None}
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        refused = {"errno": error.errno, "cause": error.strerror or str(error)}
    disk = os.statvfs(place)
    return {"place": str(place), "free": disk.f_bavail * disk.f_frsize, **refused}


def _is_there(path: Path) -> bool:
    """Return whether a path exists; raises OSError if that cannot be determined."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):  # the latter's file is found further up
        return False
    return True


def anything(path: str) -> dict[str, Any]:
    """Return whether a path is a file, or a folder that is not empty."""
    there = _is_there(Path(path))
    return {"there": bool(os.listdir(path)) if there and os.path.isdir(path) else there}


def data(path: str) -> dict[str, Any]:
    """Check that all shards of DATA exist and the first can be read; return their number and the place of the index."""
    from kdcache.data.index import find_index
    from kdcache.data.places import index_places
    from kdcache.data.shards import expand_data, open_shard

    index = find_index(path)
    shards = expand_data(path) if index is None else index.shards
    with open_shard(shards[0]) as file:
        file.read(512, 0)
    if index is not None:
        return {"shards": len(shards), "index": str(index.path), "places": []}
    return {"shards": len(shards), "index": None, "places": list(map(str, index_places(path, shards, False)))}


def cache(path: str) -> dict[str, Any]:
    """Return the teachers of a cache; None if there is no cache yet, with "foreign" for other files there.

    In an object store it is listed in any case: that there is no cache can be asked of a bucket that is not there.
    """
    from kdcache.cache.durable import PARTIAL
    from kdcache.cache.locations import open_files
    from kdcache.cache.store import Cache
    from kdcache.io.folder_lock import is_lock_file

    if Cache.exists(path):
        return {"teachers": Cache.open(path).names()}
    # What a creation left that was killed is completed by the next one.
    ours = {PARTIAL, "windows", "teachers"}
    names = set(open_files(path, read_only=True).names("")) - ours
    return {"teachers": None, "foreign": sorted(name for name in names if not is_lock_file(name))[:1]}


def writing(url: str) -> dict[str, Any]:
    """Put a small object under the URL of a cache, and remove it again."""
    from kdcache.cache.durable import PARTIAL
    from kdcache.cache.locations import open_files

    files, probe = open_files(url), f"{PARTIAL}/doctor-{uuid.uuid4().hex}"
    files.put(probe, b"\0")
    files.delete(probe)
    return {}


def account() -> dict[str, Any]:
    """Return the user's name and the folder of cached files, which PyTorch and timm need while they are imported."""
    import getpass

    import timm  # noqa: F401  (its import is the trial)

    home = Path.home()
    return {"name": getpass.getuser(), "cached": os.environ.get("XDG_CACHE_HOME") or str(home / ".cache")}


def weights() -> dict[str, Any]:
    """Return the Hugging Face hub's folder, whether it holds weights, and whether the hub is set offline."""
    from huggingface_hub import constants

    held = any(file.is_file() for file in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/*"))
    return {"path": constants.HF_HUB_CACHE, "held": held, "offline": bool(constants.HF_HUB_OFFLINE)}
