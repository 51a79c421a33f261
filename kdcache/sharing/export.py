"""`kdcache export --push-to-hub`: bring an export with its model card to the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from kdcache.errors import RunError, UsageError
from kdcache.io.hub import HUB_SETTINGS, HubError, endpoint, hub_api, hub_errors, hub_headers
from kdcache.io.reading import read_bytes
from kdcache.runtime.progress import Progress, logged
from kdcache.sharing.card_files import CARD, is_own, with_mark
from kdcache.sharing.repositories import create_repository, quiet_uploads

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def require_model_name(name: str) -> None:
    """Raise UsageError where a text names no repository of a model on the hub."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(f"--push-to-hub {name} names no model on the hub: write OWNER/NAME.")


def push_export(folder: Path, names: Sequence[str], name: str, progress: Progress = logged) -> str:
    """Commit the files of an export to a model's repository, made private where there is none; return its address.

    A model card there that somebody has edited stays as it is.

    Args:
        folder: folder of the export.
        names: its files.
        name: OWNER/NAME.

    Raises:
        UsageError: no such name, or no token.
        RunError: the hub refuses it, or cannot be reached; the export itself is whole.
    """
    require_model_name(name)
    try:
        is_new = create_repository(name, "model")
        with hub_errors(), quiet_uploads():
            _commit(folder, names, name, progress)
    except HubError as error:
        raise RunError(
            f"The export {folder} is whole, and could not be brought to the hub as {name}: {error}. Check "
            f"{HUB_SETTINGS}, then run the same command again."
        ) from error
    if is_new:
        progress.say(
            f"{name} is new and private: fill in the licence on its card before you make it public in its settings."
        )
    return f"{endpoint()}/{name}"


def _commit(folder: Path, names: Sequence[str], name: str, progress: Progress) -> None:
    from huggingface_hub import CommitOperationAdd

    api = hub_api()
    operations = [CommitOperationAdd(file, folder / file) for file in names if file != CARD]
    if is_own(_card_there(name)):
        card = with_mark(read_bytes(folder / CARD).decode())
        operations.append(CommitOperationAdd(CARD, card.encode()))
    else:
        progress.warn(f"The model card of {name} was left as it is: somebody has edited it on the hub.")
    api.create_commit(name, operations, commit_message="kdcache: export")


def _card_there(name: str) -> bytes | None:
    """Return the README of a model on the hub; None where it has none."""
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = f"{endpoint()}/{name}/resolve/main/{CARD}"
    found = get_session().get(url, headers=dict(hub_headers()), follow_redirects=True)
    if found.status_code == 404:
        return None
    hf_raise_for_status(found)
    return bytes(found.content)
