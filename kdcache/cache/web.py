"""A cache's files behind a web server or on the Hugging Face hub, read where they lie: by ranges of bytes, unlisted.

What has to be listed (teachers, records, lists of lost samples) stands in `files.json` beside the cache, which
`kdcache cache push` and `kdcache cache card` write; it is read once. Nothing can be written here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar
from urllib.parse import urlsplit

from kdcache.cache.files import is_there
from kdcache.cache.listing import LISTING, Listing
from kdcache.cache.objects import ObjectFiles
from kdcache.errors import CacheError, UnreadableError, UsageError
from kdcache.io.hub import HUB_SETTINGS, SCHEME, HubError, HubPlace, hub_headers
from kdcache.io.object_retry import RetryPolicy
from kdcache.io.object_store import ObjectStore

T = TypeVar("T")

WEB_SCHEMES = ("http", "https")

_NOTHING = Listing({})


class WebFiles(ObjectFiles):
    """Keys are files below a URL that a server of files answers for."""

    def __init__(
        self, url: str, store: ObjectStore, settings: str = "the URL and the network", *, read_only: bool = True
    ) -> None:
        """store: requests for these files, whose own URL may be another one; `url` is for messages."""
        self.url, self.read_only, self.settings = url.rstrip("/"), read_only, settings
        self._store = store
        self._listing: Listing | None = None
        self._one_at_a_time = Lock()

    def names(self, folder: str) -> list[str]:
        """Return the names under one of the folders that the listing knows. Raises CacheError for any other."""
        if _NOTHING.names(folder) is None:  # who asks for anything else wants to make a cache there
            raise self._cannot_write()
        return self._known().names(folder) or []

    def size(self, key: str) -> int | None:
        """Return the length of a file, by asking for its first byte: some servers answer nothing but GET."""
        with self._named("read", key):
            return self._store.size(key)

    def all_names(self, folder: str) -> set[str]:
        """Return what `names` does: the listing is the only answer."""
        return set(self.names(folder))

    def confirm(self, key: str, read: Callable[[], T], accept: Callable[[T], bool] = is_there) -> T:
        """Ask again as an object store does, but not of what the listing says."""
        if _NOTHING.names(key) is not None:
            return read()
        return super().confirm(key, read, accept)

    def hasty(self) -> "WebFiles":
        """Return these files, which can only be read: a caller that asks for an early error is about to write."""
        return self

    def _known(self) -> Listing:
        with self._one_at_a_time:
            if self._listing is None:
                data = self.confirm(LISTING, lambda: self.get(LISTING))
                if data is None:
                    raise UnreadableError(
                        f"{self.locate(LISTING)} is missing: a web server does not list what it has, so this file "
                        "has to say which blocks the cache holds.",
                        "Where the cache lies in a folder, `kdcache cache card` writes it; `kdcache cache push` brings "
                        "it to the hub.",
                    )
                self._listing = Listing.from_bytes(data, self.locate(LISTING))
            return self._listing

    @contextmanager
    def _named(self, verb: str, key: str) -> Iterator[None]:
        if verb == "write":
            raise self._cannot_write()
        with super()._named(verb, key):
            yield

    def _cannot_write(self) -> CacheError:
        return CacheError(
            f"The cache {self.url} lies behind a web server, where it can be read and not written.",
            "Dump into a folder or an object store, then share it with `kdcache cache push CACHE "
            "hf://datasets/OWNER/NAME`.",
        )


def open_web(url: str, read_only: bool, policy: RetryPolicy | None = None) -> WebFiles:
    """Return the files at an http(s) URL, or of a data set on the hub, `hf://datasets/OWNER/NAME`.

    Raises:
        UsageError: a URL that names no data set, or that has a password, which would get into messages and run folders.
        UnreadableError: the hub does not know the data set, or cannot be reached.
    """
    if not url.startswith(SCHEME):
        _require_no_secret(url)
        return WebFiles(url, ObjectStore(url, policy), read_only=read_only)
    place = HubPlace.parse(url)
    try:
        address = place.at_commit().address()
    except HubError as error:
        what = "there is no such data set, or it is not yours to read" if error.is_refusal else str(error)
        raise UnreadableError(f"Cannot read {place}: {what}.", f"Check {HUB_SETTINGS}.") from error
    return WebFiles(str(place), ObjectStore(address, policy, hub_headers()), HUB_SETTINGS, read_only=read_only)


def _require_no_secret(url: str) -> None:
    """Raise UsageError where a URL has a password or a query, without showing it."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query:
        raise UsageError(
            f"The URL of {parts.scheme}://{parts.hostname}{parts.path} has a user, a password or a query, which would "
            "get into messages and the files of runs. Give the URL without it; for a cache that not everybody may "
            "read use the hub (hf://datasets/OWNER/NAME with HF_TOKEN) or an object store."
        )
