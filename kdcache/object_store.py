"""Opening an object store by a URL such as `s3://bucket/path`: what caches and shards there have in common.

Credentials, region and endpoint are those of the environment, by the provider's own names (AWS_ENDPOINT_URL,
AWS_REGION, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...). A request that fails for a while is
repeated by obstore.
"""

import re
from typing import Any

from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError
from obstore.store import from_url

from kdcache.errors import reason

MISSING = (NotFoundError, FileNotFoundError)
"""What obstore raises for an object, or a bucket, that is not there."""

HIDDEN = (*MISSING, PermissionDeniedError)
"""What it raises for an object that is not there to somebody who may read objects, but may not list them."""

FAILURES = (BaseError, OSError, ValueError)
"""What obstore raises for anything that goes wrong."""

_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Where a machine of a cloud asks for its credentials; obstore does so last, when the environment has none."""

SETTINGS = "URL, credentials, region and endpoint (AWS_ENDPOINT_URL, AWS_REGION, ...)"
"""What a user can check when a store fails."""


def open_store(url: str) -> Any:
    """The store whose keys are relative to the URL. Nothing is asked of it yet. Raises one of FAILURES."""
    return from_url(url)


def is_missing(error: BaseException) -> bool:
    """Whether an object or a bucket is not there; of a bucket that is to be listed, obstore's text alone says so."""
    return isinstance(error, MISSING) or "404 Not Found" in reason(error)


def cause(error: BaseException) -> str:
    """The first line of what obstore says, without the Rust structure and the server's XML that follow."""
    text = re.split(r"\s+Debug source:|\n|: <\?xml", reason(error))[0].rstrip(".")
    if any(host in text for host in _METADATA):
        return "there are no credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ...)"
    return text
