"""What `kdcache doctor` found: one sentence about each thing, and one of remedy where it is not well."""

from dataclasses import dataclass
from typing import Literal

from kdcache.doctor.child import Outcome
from kdcache.io.remedies import REMEDIES

State = Literal["ok", "note", "fault"]

_TIMEOUT = (
    "The machine may be busy, or a disk, a mount or the network slow: see whether it answers, and try again with a "
    "larger --limit."
)
_KILL = "Memory most likely ran out: end what else runs here, or give this container or job more."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `ok`, `note`, `fault` and `failed` make one.

    Attributes:
        subject: what it is, in a word or two.
        state: "ok"; "note" where the main job runs, though not as well as it could or only in part; "fault" where it
            does not.
        says: what is so.
        remedy: what to do, for whatever is not ok; None where `says` ends in it.
    """

    subject: str
    state: State
    says: str
    remedy: str | None = None


def ok(subject: str, says: str) -> Finding:
    """A thing that is well."""
    return Finding(subject, "ok", says)


def note(subject: str, says: str, remedy: str) -> Finding:
    """A thing that the main job can do without."""
    return Finding(subject, "note", says, remedy)


def fault(subject: str, says: str, remedy: str) -> Finding:
    """A thing that the main job cannot do without."""
    return Finding(subject, "fault", says, remedy)


def failed(subject: str, opening: str, outcome: Outcome, remedy: str, state: State = "fault") -> Finding:
    """A thing whose trial failed.

    Args:
        opening: the clause that the failure is the cause of.
        remedy: for a failure that tells of none by the way it ended.
    """
    failure = outcome.failure or ""
    if outcome.ending == "refusal":
        return Finding(subject, state, failure)
    known = {"timeout": _TIMEOUT, "kill": _KILL}.get(outcome.ending) or REMEDIES.get(outcome.errno or 0)
    return Finding(subject, state, f"{opening}: {failure.rstrip('.')}.", known or remedy)
