"""Where a cache lies: a folder, or a URL of an object store."""

from pathlib import Path

from kdcache.cache.durable import LocalFiles
from kdcache.cache.files import Files
from kdcache.errors import CacheError


def open_files(path: str | Path, read_only: bool = False) -> Files:
    """The files of a folder, or of an object store where `path` is a URL such as `s3://bucket/path`.

    Raises CacheError where the URL cannot be opened, or obstore is not installed.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator or scheme == "file":
        return LocalFiles(rest if separator else path, read_only=read_only)
    try:
        from kdcache.cache.objects import ObjectFiles
    except ImportError as error:
        raise CacheError(
            f"The cache {path} lies in an object store, and obstore is not installed: pip install 'kdcache[objects]'."
        ) from error
    return ObjectFiles(str(path), read_only=read_only)
