"""Places on the Hugging Face hub: `hf://datasets/OWNER/NAME`, and the address, token and commit behind such a name."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

from kdcache.errors import KdcacheError, UsageError, reason

SCHEME = "hf://"
#: What a user can check when the hub fails.
HUB_SETTINGS = "the name, the token (HF_TOKEN, or hf auth login) and the network (HF_ENDPOINT)"

_PLACE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([^/@]+))?(?:/(.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Seconds for which the hub may think about a question.
_SECONDS = 30.0


class HubError(Exception):
    """A request to the hub that failed; its text is the cause as a clause, without tokens.

    Attributes:
        is_refusal: whether the hub said that it does not know the repository, or that the user may not do this.
        is_conflict: whether somebody else committed meanwhile.
    """

    def __init__(self, cause: str, *, is_refusal: bool = False, is_conflict: bool = False) -> None:
        super().__init__(cause)
        self.is_refusal, self.is_conflict = is_refusal, is_conflict


@dataclass(frozen=True)
class HubPlace:
    """A folder in a repository of data sets on the hub.

    Attributes:
        repository: OWNER/NAME.
        revision: branch, tag or commit; None for the branch `main`.
        folder: folder in the repository; "" for its root.
    """

    repository: str
    revision: str | None = None
    folder: str = ""

    @classmethod
    def parse(cls, url: str) -> "HubPlace":
        """Return the place that a URL names. Raises UsageError for another form than hf://datasets/OWNER/NAME."""
        found = _PLACE.fullmatch(url.rstrip("/"))
        if found is None or ".." in url:
            raise UsageError(
                f"{url} names no data set on the hub: write hf://datasets/OWNER/NAME, or "
                "hf://datasets/OWNER/NAME@REVISION/FOLDER for what is not at the root of its branch main."
            )
        return cls(found[1], None if found[2] is None else unquote(found[2]), found[3] or "")

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{quote(self.revision, safe='')}"
        return f"{SCHEME}datasets/{self.repository}{at}" + (f"/{self.folder}" if self.folder else "")

    def at_commit(self) -> "HubPlace":
        """Return the place with the commit that its revision names now, so that all that is read is of one commit.

        Raises HubError where the hub does not tell it.
        """
        if self.revision is not None and _COMMIT.fullmatch(self.revision):
            return self
        with hub_errors():
            info = hub_api().repo_info(self.repository, repo_type="dataset", revision=self.revision, timeout=_SECONDS)
        return replace(self, revision=str(info.sha))

    def address(self) -> str:
        """Return the http(s) URL of the folder, below which each file has its own."""
        url = f"{endpoint()}/datasets/{self.repository}/resolve/{quote(self.revision or 'main', safe='')}"
        return f"{url}/{quote(self.folder)}" if self.folder else url


def endpoint() -> str:
    """Return the address of the hub: $HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def has_token() -> bool:
    """Return whether there is a token: $HF_TOKEN, or that of `hf auth login`."""
    from huggingface_hub import get_token

    return get_token() is not None


def hub_headers() -> Mapping[str, str]:
    """Return the headers of a request to the hub: the user's token, where there is one, and who asks."""
    from huggingface_hub.utils import build_hf_headers

    return {name: value for name, value in build_hf_headers(library_name="kdcache").items() if value}


def hub_api() -> Any:
    """Return the client of the hub's API, of huggingface_hub."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="kdcache")


@contextmanager
def hub_errors() -> Iterator[None]:
    """Turn whatever huggingface_hub raises into a HubError; an error of kdcache's own stays what it is."""
    from huggingface_hub import get_token

    try:
        yield
    except KdcacheError:
        raise
    except Exception as error:  # httpx's, its own, OSError, RuntimeError and ValueError: it has no common class
        status = getattr(getattr(error, "response", None), "status_code", None)
        cause = reason(error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error)
        for secret in filter(None, (get_token(),)):
            cause = cause.replace(secret, "...")
        raise HubError(
            re.sub(r"(https?://[^\s?]+)\?[^\s)]+", r"\1", cause),
            is_refusal=status in (401, 403, 404),
            is_conflict=status in (409, 412),
        ) from error
