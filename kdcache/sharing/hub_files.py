"""The files of a cache in a repository on the hub, as the target of a copy: many files that are put make a commit.

A commit is whole or not there, so that a record is never there without its chunks. What was uploaded and not committed
is found by the hub when it is uploaded again, and not sent a second time.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kdcache.cache.durable import PARTIAL
from kdcache.cache.files import Files
from kdcache.cache.listing import LISTING, Listing
from kdcache.cache.web import open_web
from kdcache.errors import CacheError, UsageError
from kdcache.io.hub import HUB_SETTINGS, HubError, HubPlace, hub_api, hub_errors
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress
from kdcache.sharing.card_files import CARD, SHEET
from kdcache.sharing.repositories import create_repository, quiet_uploads

#: Bytes that are held before they are uploaded, and bytes and files of a commit.
UPLOAD_BYTES, COMMIT_BYTES, COMMIT_FILES = 256 * 2**20, 8 * 2**30, 1000

#: Files at the root of a repository that are not the cache's, and may lie beside it.
_BESIDE = {CARD, SHEET, LISTING, ".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt"}


class HubFiles(Files):
    """Keys are files of a repository; those of the cache's folder of partial files are kept in memory alone."""

    read_only = False
    may_lose = False

    def __init__(self, place: HubPlace, progress: Progress) -> None:
        """Make the repository, private, where there is none, and list what it has.

        Raises:
            UsageError: a place with a revision or a folder, or no token.
            CacheError: the hub refuses it, or cannot be reached.
        """
        if place.revision is not None or place.folder:
            raise UsageError(f"A cache has a repository of its own: push to hf://datasets/{place.repository}.")
        self.place, self._progress, self._api = place, progress, hub_api()
        with self._asking("make"):
            self.is_new = create_repository(place.repository, "dataset")
        self._held: dict[str, bytes] = {}
        self._records: dict[str, bytes] = {}
        self._operations: dict[str, Any] = {}
        self._aside: dict[str, tuple[bytes, float]] = {}
        self._waiting = self._uploaded = self.commits = 0
        self._committed: Files | None = None
        with self._asking("read"):
            self._head = str(self._api.repo_info(place.repository, repo_type="dataset").sha)
            tree = self._api.list_repo_tree(place.repository, recursive=True, revision=self._head, repo_type="dataset")
            self._sizes = {each.path: int(each.size) for each in tree if hasattr(each, "size")}

    def locate(self, key: str) -> str:
        """Return the place of a file."""
        return f"{self.place}/{key}" if key else str(self.place)

    def get(self, key: str) -> bytes | None:
        """Return what is held of a file, or what is committed."""
        if key.startswith(PARTIAL):
            return self._aside[key][0] if key in self._aside else None
        if key not in self._sizes:
            return None
        for held in (self._held, self._records):
            if key in held:
                return held[key]
        if key in self._operations:  # uploaded, and no more held
            self.commit()
        if self._committed is None:
            self._committed = open_web(f"{self.place}@{self._head}", read_only=True)
        return self._committed.get(key)

    def get_part(self, key: str, start: int, length: int) -> bytes | None:
        """Return some bytes of a file."""
        data = self.get(key)
        return None if data is None else data[start : start + length]

    def size(self, key: str) -> int | None:
        """Return the length of a file."""
        if key.startswith(PARTIAL):
            return len(self._aside[key][0]) if key in self._aside else None
        return self._sizes.get(key)

    def modified(self, key: str) -> float | None:
        """Return when a file in memory was put; None for any other, of which nobody asks."""
        return self._aside[key][1] if key in self._aside else None

    def names(self, folder: str) -> list[str]:
        """Return the names under a folder, without what may lie beside a cache."""
        prefix = f"{folder}/" if folder else ""
        found = {key[len(prefix) :].split("/")[0] for key in self._sizes if key.startswith(prefix)}
        return sorted(found if folder else found - _BESIDE)

    def put(self, key: str, *parts: bytes) -> None:
        """Hold a file for the next commit, which comes when there are many."""
        from huggingface_hub import CommitOperationAdd

        data = b"".join(parts)
        if key.startswith(PARTIAL):
            self._aside[key] = (data, time.time())
            return
        self._operations[key] = CommitOperationAdd(key, data)
        self._held[key], self._sizes[key] = data, len(data)
        if "/records/" in key:  # which the card is made from, at the end
            self._records[key] = data
        self._waiting += len(data)
        if self._waiting >= UPLOAD_BYTES:
            self._upload()
        if len(self._operations) >= COMMIT_FILES or self._uploaded >= COMMIT_BYTES:
            self.commit()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Hold a file, unless it is there: a commit fails where anybody else has committed in between."""
        if self.size(key) is not None:
            return False
        self.put(key, data)
        return True

    def holds(self, key: str, *parts: bytes) -> bool:
        """Return whether what is held or uploaded of a file are these bytes, by their SHA-256."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        waiting = self._operations.get(key)
        if waiting is not None and waiting.upload_info.size:
            return bool(waiting.upload_info.sha256 == digest.digest())
        return super().holds(key, *parts)

    def flush(self, keys: Iterable[str]) -> None:
        """Do nothing: files are kept when they are committed."""

    def delete(self, key: str) -> None:
        """Remove a file with the next commit."""
        from huggingface_hub import CommitOperationDelete

        if key.startswith(PARTIAL):
            self._aside.pop(key, None)
            return
        if self._sizes.pop(key, None) is not None:
            self._operations[key] = CommitOperationDelete(key)
            self._held.pop(key, None)
            self._records.pop(key, None)

    def prepare(self) -> None:
        """Do nothing: whether it may write is seen when the repository is made."""

    def tidy(self) -> None:
        """Do nothing: nothing is left over."""

    def commit(self) -> None:
        """Commit what was put, with a listing of all blocks. Raises CacheError as the class's other methods do."""
        if not self._operations:
            return
        self._upload()
        from huggingface_hub import CommitOperationAdd

        listing = Listing.of_keys(self._sizes).to_bytes()
        operations = {**self._operations, LISTING: CommitOperationAdd(LISTING, listing)}
        with self._asking("commit to"):
            done = self._api.create_commit(
                self.place.repository,
                list(operations.values()),
                commit_message=f"kdcache: {format_count(len(self._operations), 'file')}",
                repo_type="dataset",
                parent_commit=self._head,
            )
        self._head, self._committed = str(done.oid), None
        self._sizes[LISTING] = len(listing)
        self.commits += 1
        self._progress.say(f"{self.place}: {format_count(len(operations), 'file')} committed")
        self._operations, self._held, self._waiting, self._uploaded = {}, {}, 0, 0

    def _upload(self) -> None:
        """Upload what is held, but for texts, which the commit has in itself, and forget its bytes."""
        added = [each for each in self._operations.values() if hasattr(each, "upload_info")]
        if self._waiting:
            with self._asking("upload to"), quiet_uploads():
                self._api.preupload_lfs_files(self.place.repository, added, repo_type="dataset")
        for each in added:
            if each.path_or_fileobj == b"":  # how huggingface_hub leaves what it has uploaded
                self._held.pop(each.path_in_repo, None)
        self._uploaded, self._waiting = self._uploaded + self._waiting, 0

    @contextmanager
    def _asking(self, verb: str) -> Iterator[None]:
        try:
            with hub_errors():
                yield
        except HubError as error:
            raise self._failed(verb, error) from error

    def _failed(self, verb: str, error: HubError) -> CacheError:
        if error.is_conflict:
            return CacheError(
                f"Somebody else has committed to {self.place} since this push began.",
                "What was committed before stays: run the same command again, which goes on from there.",
            )
        return CacheError(
            f"Cannot {verb} {self.place}: {error}.",
            f"Check {HUB_SETTINGS}, then run the same command again: what was committed or uploaded before stays.",
        )
