"""Checks of the locations of data, cache, runs and weights: access, write permission and free space."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from kdcache.data.places import is_url
from kdcache.doctor.child import attempt
from kdcache.doctor.findings import Finding, State, failed, fault, note, ok
from kdcache.io.remedies import REMEDIES

Findings = Generator[Finding, None, None]

GIB = 2**30
#: Bytes; less free space gives a note: a cache of ImageNet-1k with 300 views takes about 4 GB, a run less.
ROOM = 5 * GIB
#: Bytes; with less free space, not even a checkpoint fits.
SCARCE = 100 * 10**6

_FOLDER = "Check the path, its mount and its permissions."
_STORE = "Check the URL, and with it credentials, region and endpoint (AWS_ENDPOINT_URL, AWS_REGION, ...)."


def look_at_account(lack: str | None, limit: float) -> Findings:
    """Check that the user's account has a name and a folder for cached files.

    lack: message of `kdcache.runtime.account.complete_environment` about what was missing.
    """
    outcome = attempt("account", limit=limit)
    if outcome.failure is not None:
        given = "Set USER to any name and HOME to a folder that you can write to"
        container = "in a container: --env USER=kdcache --env HOME=/workspace/.cache"
        yield failed("account", f"User {os.getuid()} cannot import timm", outcome, f"{given} ({container}).")
        return
    path, elsewhere = outcome.values["cached"], "XDG_CACHE_HOME names another folder for cached files."
    disk = attempt("folder", path, limit=limit)
    if disk.failure is not None:
        yield failed("account", f"{path}, for cached files, cannot be reached", disk, f"{_FOLDER} {elsewhere}", "note")
    elif disk.values["cause"] is not None:
        yield _unwritable("account", path, disk.values, elsewhere, "note")
    elif lack is not None:
        text, _, remedy = lack.partition(". ")
        yield note("account", f"{text}.", remedy)
    else:
        yield ok("account", f"{outcome.values['name']}; cached files go to {path}")


def look_at_data(data: str, is_named: bool, limit: float) -> Findings:
    """Check the shards and their index; `is_named` is False for the default path."""
    if not is_named and attempt("anything", data, limit=limit).values.get("there") is False:
        yield note(
            "data",
            f"There are no shards at {data}, the default.",
            "Make them with `kdcache import folder`, or name them with --data or $KDCACHE_DATA.",
        )
        return
    outcome = attempt("data", data, limit=limit)
    if outcome.failure is not None:
        yield failed("data", f"{data} cannot be read", outcome, _STORE if is_url(data) else _FOLDER)
        return
    shards = outcome.values["shards"]
    yield ok("data", f"{shards:,} shard{'s' * (shards != 1)} at {data}")
    yield _index(outcome.values, limit)


def _index(values: dict[str, Any], limit: float) -> Finding:
    """Return the place of the index; else the first place that can be written, which a job takes."""
    if values["index"] is not None:
        return ok("index", f"at {values['index']}")
    refusals = []
    for place in values["places"]:
        parent = str(Path(place).parent)
        disk = attempt("folder", parent, limit=limit)
        cause = disk.failure or disk.values["cause"]
        if cause is None:
            return ok("index", f"none yet; it will be stored at {place}")
        refusals.append(f"{parent} ({cause})")
    return fault(
        "index",
        f"There is none yet, and it can be written neither to {' nor to '.join(refusals)}."
        if len(refusals) > 1
        else f"There is none yet, and it cannot be written to {refusals[0]}.",
        "Make one of these places writable, or set XDG_CACHE_HOME to a folder that is.",
    )


def look_at_cache(cache: str, limit: float) -> Findings:
    """Check the cache, or the place where it will be created, and its disk."""
    cache = cache.removeprefix("file://")
    check = _STORE if is_url(cache) else _FOLDER
    outcome = attempt("cache", cache, limit=limit)
    if outcome.failure is not None:
        yield failed("cache", f"{cache} cannot be opened", outcome, check)
        return
    teachers = outcome.values["teachers"]
    if teachers is None and outcome.values["foreign"]:
        yield fault(
            "cache", f"{cache} is no cache, but holds {outcome.values['foreign'][0]}.", "Name another with --cache."
        )
        return
    held = None if teachers is None else f"{cache} holds targets of {', '.join(teachers) or 'no teacher yet'}"
    if is_url(cache):
        yield _store(cache, held, limit)
    else:
        yield from _cache_folder(cache, held, limit)


def _store(cache: str, held: str | None, limit: float) -> Finding:
    """Check an object store by writing to it: nothing else shows whether it can be written."""
    tried = attempt("writing", cache, limit=limit)
    if tried.failure is None:
        return ok("cache", held or f"none yet; it can be created at {cache}")
    if held is None:
        return failed("cache", f"{cache} cannot be written", tried, _STORE)
    return note(
        "cache",
        f"{held}, and cannot be written: students can learn from it, but no targets can be added "
        f"({tried.failure.partition('. ')[0]}).",
        "To add targets, check the permissions of these credentials in the bucket.",
    )


def _cache_folder(cache: str, held: str | None, limit: float) -> Findings:
    disk = attempt("folder", cache, limit=limit)
    if disk.failure is not None:
        yield failed("cache", f"{cache} cannot be reached", disk, _FOLDER)
    elif disk.values["cause"] is None:
        yield ok("cache", held or f"none yet; it can be created at {cache}")
        yield _room("cache's disk", disk.values, cache, needed=held is None)
    elif held is None:
        yield _unwritable("cache", cache, disk.values, "--cache names another place.")
    else:
        yield note(
            "cache",
            f"{held}, and cannot be written ({disk.values['cause']}): students can learn from it, but no targets can "
            "be added.",
            "To add targets, check its disk and owner, and in a container its mount and --user.",
        )


def look_at_folder(subject: str, path: str, elsewhere: str, limit: float, needed: bool = True) -> Findings:
    """Check a folder that a job writes to.

    Args:
        elsewhere: sentence on how to name another folder.
        needed: whether the job fails without the folder.
    """
    state: State = "fault" if needed else "note"
    disk = attempt("folder", path, limit=limit)
    if disk.failure is not None:
        yield failed(subject, f"{path} cannot be reached", disk, f"{_FOLDER} {elsewhere}", state)
    elif disk.values["cause"] is not None:
        yield _unwritable(subject, path, disk.values, elsewhere, state)
    else:
        yield ok(subject, f"{path} can be written")
        yield _room(f"{subject}' disk", disk.values, path, needed)


def look_at_weights(limit: float) -> Findings:
    """Check the folder of the hub's files: it holds weights, or they can be downloaded into it."""
    elsewhere = "HF_HOME names another folder, and --weights FILE needs none."
    outcome = attempt("weights", limit=limit)
    if outcome.failure is not None:
        remedy = "Install huggingface-hub again, or, if its folder cannot be reached, set HF_HOME to another."
        yield failed("weights", "The hub's client cannot be used", outcome, remedy)
        return
    path, held = outcome.values["path"], outcome.values["held"]
    if not outcome.values["offline"]:
        yield from look_at_folder("weights", path, elsewhere, limit, needed=not held)
    elif held:
        yield ok("weights", f"from {path} alone: HF_HUB_OFFLINE is set")
    else:
        yield note(
            "weights",
            f"There are none at {path}, and HF_HUB_OFFLINE is set.",
            "Copy the hub's folder from a machine that has them, unset HF_HUB_OFFLINE, or give --weights FILE.",
        )


def _unwritable(subject: str, path: str, values: dict[str, Any], elsewhere: str, state: State = "fault") -> Finding:
    """Return the finding for a folder in which no file could be created."""
    place = values["place"] if values["place"] != path else "it"
    text = f"{path} cannot be written: the system reports {values['cause']!r} for {place}."
    return Finding(subject, state, text, f"{REMEDIES.get(values['errno'], _FOLDER)} {elsewhere}")


def _room(subject: str, values: dict[str, Any], path: str, needed: bool) -> Finding:
    free = values["free"]
    if free < SCARCE and needed:
        return fault(subject, f"Only {free / 1e6:.0f} MB are free at {path}.", "Free some space.")
    if free < ROOM:
        return note(subject, f"{free / GIB:.1f} GiB are free at {path}.", "Free some space before a long job.")
    return ok(subject, f"{free / GIB:,.0f} GiB free")
