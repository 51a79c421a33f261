"""Where data, answers and runs lie: whether they can be reached, and whether there is room."""

from collections.abc import Iterator
from pathlib import Path

from kdcache.doctor.child import Outcome, attempt
from kdcache.doctor.findings import Finding, fault, note, ok

GIB = 2**30
#: A disk with less is noted: a cache of ImageNet-1k with 300 views takes about 4 GB, a run with its checkpoints less.
ROOM = 5 * GIB


def look_at_data(data: str, asked: bool, limit: float) -> Finding:
    """The shards; `asked` is whether somebody named them, and not only the default."""
    if not asked and attempt("anything", data, limit=limit).answer.get("there") is False:
        return note(
            "data",
            f"There are no shards at {data}, the default.",
            "Make them with `kdcache import folder`, or name them with --data or $KDCACHE_DATA.",
        )
    outcome = attempt("data", data, limit=limit)
    if outcome.failure is not None:
        return fault(
            "data", f"{data} cannot be read: {_clause(outcome)}.", "Check the path, its mount and its permissions."
        )
    shards = outcome.answer["shards"]
    return ok("data", f"{shards:,} shard{'s' * (shards != 1)} at {data}")


def look_at_cache(cache: str, limit: float) -> Iterator[Finding]:
    """The cache, or the place where it will be made, and its disk."""
    outcome = attempt("cache", cache, limit=limit)
    if outcome.failure is not None:
        yield fault(
            "cache", f"{cache} cannot be opened: {_clause(outcome)}.", "Check the path, its mount and its permissions."
        )
        return
    teachers = outcome.answer["teachers"]
    if teachers is None and outcome.answer["foreign"]:
        yield fault(
            "cache", f"{cache} is no cache, but holds {outcome.answer['foreign'][0]}.", "Name another with --cache."
        )
        return
    held = None if teachers is None else f"{cache} holds answers of {', '.join(teachers) or 'no teacher yet'}"
    if "://" in cache:
        yield ok("cache", held or f"{cache} can be reached, and holds no cache yet")
        return
    disk = attempt("folder", cache, limit=limit)
    if disk.failure is not None:
        yield fault("cache", f"{cache} cannot be reached: {_clause(disk)}.", "Check its mount.")
    elif disk.answer["writable"]:
        yield ok("cache", held or f"none yet; it can be made at {cache}")
        yield from _room("cache's disk", disk, cache)
    elif held is None:
        yield fault(
            "cache",
            f"{cache} cannot be made: {disk.answer['place']} cannot be written.",
            "Check who owns it and its permissions, or name another place with --cache.",
        )
    else:
        yield note(
            "cache",
            f"{held}, and cannot be written: students can learn from it, answers cannot be added.",
            "To add some, check who owns it, and in a container how it is mounted and --user.",
        )


def look_at_folder(subject: str, path: Path, remedy: str, limit: float) -> Iterator[Finding]:
    """A folder that a job writes to. `remedy` is for one that cannot be written, which is no fault by itself."""
    disk = attempt("folder", str(path), limit=limit)
    if disk.failure is not None:
        yield note(subject, f"{path} cannot be reached: {_clause(disk)}.", remedy)
    elif not disk.answer["writable"]:
        yield note(subject, f"{path} cannot be written.", remedy)
    else:
        yield ok(subject, f"{path} can be written")
        yield from _room(f"{subject}' disk", disk, str(path))


def _room(subject: str, disk: Outcome, path: str) -> Iterator[Finding]:
    free = disk.answer["free"]
    if free < ROOM:
        yield note(subject, f"{free / GIB:.1f} GiB are free at {path}.", "Free some space before a long job.")
    else:
        yield ok(subject, f"{free / GIB:,.0f} GiB free")


def _clause(outcome: Outcome) -> str:
    return (outcome.failure or "").rstrip(".")
