"""Requests to an object store by a URL such as `s3://bucket/path`, for caches and shards.

Credentials, region, endpoint and time-outs are those of the environment, by the provider's own names (AWS_ENDPOINT_URL,
AWS_REGION, AWS_TIMEOUT, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...). Every request may be
repeated, so that a failed one is retried. This module does so and not obstore, which retries neither incomplete bodies
nor deletes, logs no retries, and does not report whether a conditional put was done before.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from kdcache.errors import reason
from kdcache.io.object_retry import DOUBTFUL_TRIES, FIRST_CONTACT, LONGEST_PAUSE, RetryPolicy

T = TypeVar("T")

#: What obstore raises for an object that is not there, or its bucket.
MISSING = (NotFoundError, FileNotFoundError)
#: What obstore raises for a conditional put of an object that is there.
EXISTS = (AlreadyExistsError, FileExistsError)
#: What obstore raises where nothing was sent: asking again changes nothing.
REFUSED = (ValueError, InvalidPathError, NotSupportedError, UnknownConfigurationKeyError)
#: What obstore raises for anything that goes wrong.
FAILURES = (BaseError, OSError, *REFUSED)

#: Bytes of an object that is put with several requests.
LARGE = 64 * 2**20

#: What a user can check when a store fails.
SETTINGS = "URL, credentials, region and endpoint (AWS_ENDPOINT_URL, AWS_REGION, ...)"

#: Where a machine of a cloud asks for its credentials; obstore does so last, when the environment has none.
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "/latest/api/token", "/latest/meta-data")
#: Message of obstore if the environment has only a part of them.
_HALF_A_KEY = ("Missing AccessKeyId", "Missing SecretAccessKey")

#: How a web server is asked: a large body may take minutes, as long as pieces of it come.
_WEB: dict[str, Any] = {"allow_http": True, "timeout": timedelta(minutes=10), "read_timeout": timedelta(seconds=30)}
#: What a URL has behind its path may be a signature that opens a door for some minutes.
_QUERY = re.compile(r"(https?://[^\s?]+)\?[^\s)]+")

_STATUS = re.compile(r"Server returned (?:non-2xx|error) .*?(\d{3})")
_NO_RESPONSE = re.compile(r"Error performing \w+ (https?://[^/\s]+)\S* .*error sending request")
#: HTTP status of a server that is busy or temporarily broken; for 400, the S3 codes of the same meaning.
_BUSY = {408, 429, 500, 502, 503, 504}
_BUSY_CODES = ("RequestTimeout", "SlowDown")


class StoreError(Exception):
    """A request that failed in all tries, or that cannot succeed in another one.

    Attributes:
        is_missing: whether the server reported that there is no such object or bucket.
    """

    def __init__(self, cause: str, tries: int = 1, seconds: float = 0.0, *, is_missing: bool = False) -> None:
        super().__init__(cause if tries == 1 else f"{cause} ({tries} tries in {seconds:.1f} s)")
        self.is_missing = is_missing


class _AnotherSizeError(Exception):
    """An object has another size than the one that was put."""


@dataclass(frozen=True)
class ObjectState:
    """The metadata of an object.

    Attributes:
        key: relative to the store's URL.
        size: bytes.
        modified: when it was put, by the store's clock.
        e_tag: differs once the object is written over; None where the store has none.
    """

    key: str
    size: int
    modified: datetime
    e_tag: str | None = None


class ObjectStore:
    """Requests for objects whose keys are relative to a URL; usable from any thread.

    Every method retries failed requests, logs them, and raises StoreError if all tries fail.
    """

    def __init__(self, url: str, policy: RetryPolicy | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Open no connection yet. Raises StoreError for an invalid URL.

        headers: sent with each request to an http(s) URL, and not where such a request is redirected to another host.
        """
        self.url = url.rstrip("/")
        self._headers = dict(headers or {})
        self.policy = RetryPolicy.from_environment() if policy is None else policy
        #: Whether the store has responded, and no request was given up since: then retries take longer.
        self._has_responded = self._has_given_up = False
        self._store = self._opened(max_retries=0)
        self._for_parts: Any = None

    def get(self, key: str, check_size: Callable[[int], None] = lambda size: None) -> bytes | None:
        """Return the bytes of an object; None if it does not exist.

        check_size: raises where an object of so many bytes is not to be read.
        """

        return self._ask_for("Reading", key, lambda: self._get(key, check_size))

    def get_if_visible(self, key: str, check_size: Callable[[int], None]) -> bytes | None:
        """Return the bytes of an object; None if it does not exist or is not visible.

        Somebody who may read objects but not list them is told that they may not, of an object that is not there.

        check_size: raises where an object of so many bytes is not to be read.
        """

        def get() -> bytes | None:
            try:
                return self._get(key, check_size)
            except PermissionDeniedError:
                return None

        return self._ask_for("Reading", key, get)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """Return `length` bytes of an object from `start` on, or fewer if it ends before; None if it does not exist."""

        def get() -> bytes:
            try:
                return bytes(obstore.get_range(self._store, key, start=start, length=length))
            except FAILURES as error:
                if _may_be_behind(error) and int(obstore.head(self._store, key)["size"]) <= start:
                    return b""  # which stores call an error
                raise

        if not length:
            return None if self.head(key) is None else b""
        return self._ask_for("Reading", key, get)

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes] | None:
        """Return several ranges, with one concurrent request each; a range is shorter if the object ends before.

        They are tried one by one once that fails, so that each has to get through by itself and not all at once. None
        where there is no such object. The ranges must not overlap or touch.
        """
        try:
            # Without `coalesce` obstore cuts nothing out of what it gets, at which it panics where an object is short.
            found = obstore.get_ranges(self._store, key, starts=starts, lengths=lengths, coalesce=0)
            self._has_responded, self._has_given_up = True, False
            return [bytes(part) for part in found]
        except MISSING:
            return None
        except FAILURES:
            parts = [self.get_range(key, start, length) for start, length in zip(starts, lengths, strict=True)]
            return None if any(part is None for part in parts) else [part for part in parts if part is not None]

    def head(self, key: str) -> ObjectState | None:
        """Return the metadata of an object; None if it does not exist."""
        return self._ask_for("Looking at", key, lambda: _state(obstore.head(self._store, key)))

    def size(self, key: str) -> int | None:
        """Return the length of an object that is not empty, from a request for its first byte; None if not there."""

        def get() -> int:
            found = obstore.get(self._store, key, options={"range": (0, 1)})
            found.bytes()  # so that the connection can be used again
            return int(found.meta["size"])

        return self._ask_for("Looking at", key, get)

    def names(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the sorted names directly under a prefix: those of objects, and those of further prefixes."""
        found = self._ask("Listing", folder, lambda: obstore.list_with_delimiter(self._store, folder or None))
        objects = [entry["path"] for entry in found["objects"]]
        return _last_parts(objects), _last_parts(found["common_prefixes"])

    def states(self, folder: str) -> list[ObjectState]:
        """Return all objects under a prefix, at any depth."""

        def states() -> list[ObjectState]:
            return [_state(entry) for page in obstore.list(self._store, folder) for entry in page]

        return self._ask("Listing", folder, states)

    def put(self, key: str, *parts: bytes) -> None:
        """Put or replace an object; a large one takes several requests and is visible only after the last."""
        large = sum(map(len, parts)) > LARGE

        def put() -> None:
            if large:
                obstore.put(self._parts_store(), key, iter(parts), use_multipart=True)
            else:
                obstore.put(self._store, key, b"".join(parts), use_multipart=False)

        self._ask("Writing", key, put)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put an object if there is none; return whether it was put.

        A try that failed may have been done all the same, so that the next finds the object there: whose it is its
        bytes tell.
        """
        former = False

        def put() -> bool:
            nonlocal former
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
                return True
            except EXISTS:
                return False
            except FAILURES:
                former = True
                raise

        return self._ask("Writing", key, put) or (former and self._holds(key, data))

    def _holds(self, key: str, data: bytes) -> bool:
        """Return whether an object has these bytes; of one of another size, nothing is read."""

        def check_size(size: int) -> None:
            if size != len(data):
                raise _AnotherSizeError

        try:
            return self.get(key, check_size) == data
        except _AnotherSizeError:
            return False

    def delete(self, key: str) -> None:
        """Remove an object, if it exists."""
        self._ask_for("Removing", key, lambda: obstore.delete(self._store, key))

    def locate(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{key}" if key else self.url

    def confirmed(
        self,
        key: str,
        read: Callable[[], T],
        accept: Callable[[T], bool],
        doubted: Callable[[BaseException], bool],
        tries: int = DOUBTFUL_TRIES,
    ) -> T:
        """Return the result of `read`, repeated if it is doubtful; see `RetryPolicy.confirmed`."""
        return self.policy.confirmed(self.locate(key), read, accept, doubted, tries)

    def _get(self, key: str, check_size: Callable[[int], None]) -> bytes:
        """Return the bytes of an object from one request, whose body is not read before its size is checked."""
        found = obstore.get(self._store, key)
        check_size(found.meta["size"])
        data = bytes(found.bytes())
        if len(data) != found.meta["size"]:
            raise OSError(f"its body has {len(data):,} of {found.meta['size']:,} bytes")
        return data

    def _opened(self, max_retries: int) -> Any:
        pause = timedelta(seconds=max(self.policy.first_pause, 0.001))
        is_web = self.url.startswith(("http://", "https://"))
        client: Any = _WEB | {"default_headers": self._headers} if is_web else None
        try:
            return from_url(
                self.url,
                client_options=client,
                retry_config={
                    "max_retries": max_retries,
                    "retry_timeout": timedelta(seconds=self.policy.limit),
                    "backoff": {"init_backoff": pause, "max_backoff": timedelta(seconds=LONGEST_PAUSE), "base": 2},
                },
            )
        except FAILURES as error:
            raise StoreError(cause(error)) from error

    def _parts_store(self) -> Any:
        """Return the store for objects in several parts, of which obstore retries each: not all of them for one."""
        if self._for_parts is None:
            self._for_parts = self._opened(max_retries=DOUBTFUL_TRIES)
        return self._for_parts

    def _ask_for(self, doing: str, key: str, request: Callable[[], T]) -> T | None:
        """Return the result of a request for one object; None if it, but not its bucket, is missing."""

        def ask() -> T | None:
            try:
                return request()
            except MISSING as error:
                self._has_responded = True
                if "NoSuchBucket" in str(error):
                    raise
                return None

        return self._ask(doing, key, ask)

    def _ask(self, doing: str, key: str, request: Callable[[], T]) -> T:
        """Return the result of a request, with retries. Raises StoreError."""
        start, tries = time.monotonic(), 0

        def attempt() -> T:
            nonlocal tries
            tries += 1
            try:
                found = request()
            except FAILURES as error:
                self._has_responded = self._has_responded or (_status(error) is not None and not self._has_given_up)
                raise
            except BaseException as error:
                if type(error).__name__ != "PanicException":
                    raise
                raise OSError(f"obstore failed: {reason(error)}") from error
            self._has_responded, self._has_given_up = True, False
            return found

        limit = self.policy.limit if self._has_responded else min(self.policy.limit, FIRST_CONTACT)
        retrying = self.policy.after_failures(f"{doing} {self.locate(key)}", limit, _worth, cause)
        try:
            return retrying(attempt)
        except FAILURES as error:
            seconds = time.monotonic() - start
            if _worth(error) is None:  # the next request waits no longer than for a store that never responded
                self._has_responded, self._has_given_up = False, True
            raise StoreError(cause(error), tries, seconds, is_missing=_is_missing(error)) from error


def cause(error: BaseException | None) -> str:
    """Return the cause as a clause, without the Rust structures and the server's XML of obstore's errors."""
    whole = str(error)
    first = re.split(r"\s+Debug source:|\n|: <\?xml", reason(error) if error is not None else "")[0].rstrip(":. ")
    if any(host in first for host in _METADATA):
        return "there are no credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ...)"
    if any(half in first for half in _HALF_A_KEY):
        return "the environment has one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and not the other"
    if error is not None and _is_missing(error):
        return "there is no such bucket (404 Not Found)"
    if "kind: Timeout" in whole:
        return "it took too long (AWS_TIMEOUT, such as 120s, gives it more time)"
    if (status := _STATUS.search(first)) is not None:
        return f"the server returned {first[status.start(1) :]}"
    if "body error" in first:
        return "the response was cut short"
    if (server := _NO_RESPONSE.search(first)) is not None:
        return f"no response from {server[1]} (error sending request)"
    return _QUERY.sub(r"\1", first).removeprefix("Generic S3 error: ").removeprefix("Generic HTTP error: ")


def _worth(error: BaseException) -> int | None:
    """Return the most tries of a request that fails with this error; None if only time limits it."""
    if isinstance(error, REFUSED) or not isinstance(error, FAILURES):
        return 1
    text, status = str(error), _status(error)
    if any(host in text for host in _METADATA):
        return DOUBTFUL_TRIES
    if status is None or status in _BUSY or any(code in text for code in _BUSY_CODES):
        return None
    return DOUBTFUL_TRIES  # a refusal, that a gateway may give by mistake: no such bucket, not allowed


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of a refusal; None if the server did not respond."""
    found = _STATUS.search(str(error))
    return None if found is None else int(found[1])


def _is_missing(error: BaseException) -> bool:
    """Return whether there is no such object or bucket; for a listed bucket, only the text shows it."""
    return isinstance(error, MISSING) or _status(error) == 404


def _may_be_behind(error: BaseException) -> bool:
    """Return whether an error may mean that a range begins after the end of its object."""
    status = _status(error)
    return status == 416 or (status is None and not isinstance(error, MISSING) and "HTTP error" not in str(error))


def _state(meta: Any) -> ObjectState:
    return ObjectState(meta["path"], int(meta["size"]), meta["last_modified"], meta["e_tag"])


def _last_parts(paths: Sequence[str]) -> list[str]:
    return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths})
