"""Where a cache lies: a folder, or a URL of an object store."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from kdcache.cache.durable import KEPT, LocalFiles
from kdcache.cache.files import Files
from kdcache.cache.held_store import hold_store
from kdcache.errors import CacheError
from kdcache.io.failures import cannot_write
from kdcache.io.folder_lock import Tell, hold_folder


def open_files(path: str | Path, read_only: bool = False) -> Files:
    """Return the files of a folder, or of an object store where `path` is a URL such as `s3://bucket/path`.

    Those at an http(s) URL and on the hub, `hf://datasets/OWNER/NAME`, can only be read.

    Raises CacheError where the URL cannot be opened, or obstore is not installed; UsageError where it names nothing.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator or scheme == "file":
        return LocalFiles(rest if separator else path, read_only=read_only)
    try:
        from kdcache.cache.objects import ObjectFiles
        from kdcache.cache.web import WEB_SCHEMES, open_web
    except ImportError as error:
        raise CacheError(
            f"The cache {path} is at a URL, and obstore is not installed: pip install 'kdcache[objects]'."
        ) from error
    if scheme in (*WEB_SCHEMES, "hf"):
        return open_web(str(path), read_only)
    return ObjectFiles(str(path), read_only=read_only)


def hold_cache(path: str | Path, tell: Tell, *, new: bool = False) -> AbstractContextManager[object]:
    """Hold a cache that is copied to or repaired, for the length of a `with` block.

    Dumps do not hold it: any number of them may add to a cache, and claims on blocks keep them out of each other's way.

    new: make the folder where there is none; else nothing is held there.

    Raises FolderHeldError where another process holds it, CacheError where it cannot be written.
    """
    files = open_files(path)
    if not isinstance(files, LocalFiles):
        return hold_store(files, tell)
    if not new and not files.root.is_dir():
        return nullcontext()
    try:
        return hold_folder(files.root, f"The cache {files.root}", "Wait until it has ended.", tell)
    except OSError as error:
        raise CacheError(cannot_write(files.root, error, KEPT)) from error
