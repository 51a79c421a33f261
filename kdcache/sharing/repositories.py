"""Repositories on the hub: making one, and uploading without the progress bars of huggingface_hub."""

from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.errors import UsageError
from kdcache.io.hub import HubError, has_token, hub_api, hub_errors


def create_repository(name: str, kind: str) -> bool:
    """Make a repository where there is none; return whether it was made.

    A new one is private: what a data set and a teacher allow is for its owner to look up before others can see it.

    Args:
        name: OWNER/NAME.
        kind: "dataset" or "model".

    Raises:
        UsageError: there is no token, without which the hub lets nobody write.
        HubError: the hub refuses it, or cannot be reached.
    """
    if not has_token():
        raise UsageError(
            f"There is no token for the hub, so nothing can be written to {name}: run `hf auth login`, or set HF_TOKEN "
            "to a token that may write."
        )
    api = hub_api()
    try:
        with hub_errors():
            api.repo_info(name, repo_type=kind)
        return False
    except HubError as error:
        if not error.is_refusal:
            raise
    with hub_errors():
        api.create_repo(name, repo_type=kind, private=True, exist_ok=True)
    return True


@contextmanager
def quiet_uploads() -> Iterator[None]:
    """Show no progress bars of huggingface_hub meanwhile: a job has its own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
